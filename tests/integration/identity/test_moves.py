"""Moving an agent: ordered by a person, done by the agent, true once the front has seen it."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec

from agent.runtime import keys
from agent.runtime.statedir import StateDir
from tensorguard.protocol.messages import CsrRequest
from tensorguard.services.certificates.renewal import renew
from tensorguard.services.people.access import Role
from tensorguard.store import tables
from tensorguard.store.ids import new_id
from tests.integration.identity.stack import Running, Stack

MOVERS = 40 if os.environ.get("TG_TEST_DEEP") else 4


async def order(stack: Stack, agent_id: UUID, fleet: str) -> httpx.Response:
    return await stack.api.admin.post(f"/api/v1/agents/{agent_id}/move", json={"fleet": fleet})


async def until_in(stack: Stack, agent_id: UUID, fleet: str) -> dict[str, Any]:
    async def arrived() -> dict[str, Any] | None:
        found = await stack.agent(agent_id)
        return found if found["fleet"] == fleet else None

    found: dict[str, Any] = await stack.until(arrived, f"the agent is not in {fleet}")
    return found


async def reported(stack: Stack, agent_id: UUID) -> list[str]:
    """The fleets of the agent's own events in the ledger, the oldest first."""
    rows = await stack.rows(
        "SELECT fleet FROM ledger_events WHERE actor_id = :id AND type LIKE 'agent.reported.%'"
        " ORDER BY id",
        id=str(agent_id),
    )
    return [row.fleet for row in rows]


async def heartbeats(stack: Stack, agent_id: UUID) -> int:
    rows = await stack.rows(
        "SELECT count(*) AS n FROM heartbeats WHERE agent_id = :id", id=agent_id
    )
    return int(rows[0].n)


async def test_an_agent_that_is_ordered_to_another_fleet_arrives_there_and_is_heard_there(
    stack: Stack, tmp_path: Path
) -> None:
    old, new = await stack.new_fleet(), await stack.new_fleet()
    running = await stack.new_agent(old)
    answer = await order(stack, running.agent_id, new)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["fleet"], answer.json()["move_to"]) == (old, new)
    found = await until_in(stack, running.agent_id, new)
    assert found["move_to"] is None
    await stack.until_superseded(running.agent_id, 1)
    before = await heartbeats(stack, running.agent_id)
    await stack.until_presence(running.agent_id, "online")

    async def heard() -> bool:
        return await heartbeats(stack, running.agent_id) > before

    await stack.until(heard, "no heartbeat from the new fleet")
    [event] = await stack.api.events("agent.moved")
    assert event["from_fleet"] == old
    [ordered] = await stack.api.events("agent.move-ordered")
    assert ordered["to_fleet"] == new
    states = await stack.rows("SELECT state FROM commands WHERE kind = 'move'")
    assert [row.state for row in states] == ["done"]
    await running.stop()

    async def all_told() -> bool:
        return len(await reported(stack, running.agent_id)) >= 3

    await stack.until(all_told, "events are missing")
    fleets = await reported(stack, running.agent_id)
    assert fleets[0] == old
    assert fleets[-1] == new
    assert await stack.api.events("events.gap") == []
    again = stack.start(running.directory, running.agent_id)
    await stack.until_presence(running.agent_id, "online")
    assert again.service.core.certificates.identity.fleet == new


async def test_an_agent_that_was_away_moves_when_it_comes_back(stack: Stack) -> None:
    old, new = await stack.new_fleet(), await stack.new_fleet()
    running = await stack.new_agent(old)
    await running.stop()
    assert (await order(stack, running.agent_id, new)).status_code == 200
    assert (await order(stack, running.agent_id, new)).status_code == 200
    assert len(await stack.api.events("agent.move-ordered")) == 1
    stack.start(running.directory, running.agent_id)
    await until_in(stack, running.agent_id, new)


async def test_an_agent_moves_there_and_back(stack: Stack) -> None:
    old, new = await stack.new_fleet(), await stack.new_fleet()
    running = await stack.new_agent(old)
    for fleet in (new, old):
        assert (await order(stack, running.agent_id, fleet)).status_code == 200
        await until_in(stack, running.agent_id, fleet)
    await stack.until_superseded(running.agent_id, 2)
    await stack.until_presence(running.agent_id, "online")


async def test_an_order_that_an_agent_has_forgotten_comes_again_under_another_number(
    stack: Stack,
) -> None:
    old, new = await stack.new_fleet(), await stack.new_fleet()
    running = await stack.new_agent(old)
    await running.stop()
    state = running.directory.get_state()
    assert (await order(stack, running.agent_id, new)).status_code == 200
    # It has run the command, and was set back before it had anything from it.
    stack.start(running.directory, running.agent_id)
    await stack.until(lambda: _has_command(stack), "no command is given")
    await until_in(stack, running.agent_id, new)
    for one in stack.agents:
        await one.stop()
    rows = await stack.rows("SELECT id, expires_at FROM commands")
    assert len(rows) == 1
    state.commands[rows[0].id] = rows[0].expires_at
    back = StateDir(running.directory.path)
    back.write_state(state)
    assert (await order(stack, running.agent_id, old)).status_code == 200
    stack.start(back, running.agent_id)
    await until_in(stack, running.agent_id, old)


async def _has_command(stack: Stack) -> bool:
    return bool(await stack.rows("SELECT 1 FROM commands"))


async def test_a_move_can_be_called_off_until_the_agent_has_its_certificate(
    stack: Stack,
) -> None:
    old, new = await stack.new_fleet(), await stack.new_fleet()
    _, agent_id = await stack.enroll(old)
    path = f"/api/v1/agents/{agent_id}/move"
    assert (await stack.api.admin.delete(path)).json()["code"] == "no-move-ordered"
    await order(stack, agent_id, new)
    called_off = await stack.api.admin.delete(path)
    assert (called_off.status_code, called_off.json()["move_to"]) == (200, None)
    await order(stack, agent_id, new)
    csr = keys.make_csr(ec.generate_private_key(ec.SECP256R1()))
    request = CsrRequest(request_id=uuid4(), csr=csr, reason="move")
    async with stack.sessions.begin() as session:
        assert await renew(session, stack.keyring, agent_id, request, now=stack.clock())
    refused = await stack.api.admin.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "move-under-way")
    third = await stack.new_fleet()
    assert (await order(stack, agent_id, third)).json()["code"] == "move-under-way"
    assert (await stack.agent(agent_id))["move_to"] == new


async def test_orders_that_make_no_sense_are_refused(stack: Stack) -> None:
    fleet, other = await stack.new_fleet(), await stack.new_fleet()
    _, agent_id = await stack.enroll(fleet)
    assert (await order(stack, agent_id, fleet)).json()["code"] == "not-movable"
    assert (await order(stack, agent_id, "no-such-fleet")).json()["code"] == "fleet-not-found"
    assert (await order(stack, agent_id, "../x")).status_code == 422
    assert (await order(stack, uuid4(), other)).json()["code"] == "agent-not-found"
    await stack.api.admin.post(f"/api/v1/agents/{agent_id}/revoke", json={"reason": "x"})
    assert (await order(stack, agent_id, other)).json()["code"] == "not-movable"
    reader = await stack.api.as_role(Role.COMPLIANCE)
    answer = await reader.post(f"/api/v1/agents/{agent_id}/move", json={"fleet": other})
    assert answer.status_code == 403


async def test_an_agent_that_asks_for_a_move_without_an_order_gets_nothing(stack: Stack) -> None:
    fleet = await stack.new_fleet()
    running = await stack.new_agent(fleet)
    core = running.service.core
    core._renewal.move(core._turn(stack.clock.moment()), "elsewhere")
    running.service._perform(core._turn(stack.clock.moment()).finish())
    csr = keys.make_csr(ec.generate_private_key(ec.SECP256R1()))
    request = CsrRequest(request_id=uuid4(), csr=csr, reason="move")
    async with stack.sessions.begin() as session:
        await renew(session, stack.keyring, running.agent_id, request, now=stack.clock())
    [event] = await stack.api.events("agent.renewal-denied")
    assert event["reason"] == "move-not-ordered"
    assert len((await stack.agent(running.agent_id))["certificates"]) == 1


async def test_a_mover_leaves_the_deployments_of_the_fleet_it_comes_from_and_no_other(
    stack: Stack,
) -> None:
    old, new = await stack.new_fleet(), await stack.new_fleet()
    running = await stack.new_agent(old)
    ids = await _deployments(stack, running, [[old], [old, new]])
    assert (await order(stack, running.agent_id, new)).status_code == 200
    await until_in(stack, running.agent_id, new)
    rows = await stack.rows("SELECT deployment_id, state, reason FROM deployment_agents")
    assert {row.deployment_id: (row.state, row.reason) for row in rows} == {
        ids[0]: ("excluded", "moved"),
        ids[1]: ("pending", ""),
    }


async def _deployments(stack: Stack, running: Running, fleets: list[list[str]]) -> list[UUID]:
    """Deployments to these fleets, in which the agent waits; they have nothing to send."""
    now, made = stack.clock(), []
    async with stack.sessions.begin() as session:
        secret = (await session.execute(sa.select(tables.secrets.c.id).limit(1))).scalar_one()
        kid, digest, release = "ab" * 32, bytes(32), new_id()
        await session.execute(
            sa.insert(tables.publishers).values(
                kid=kid,
                name="p",
                alg="ed25519",
                public=bytes(32),
                names=["*"],
                not_before=now,
                not_after=now + timedelta(days=1),
                created_at=now,
                created_by="test",
            )
        )
        await session.execute(
            sa.insert(tables.packages).values(
                digest=digest,
                name="m",
                version="1",
                seq=1,
                publisher_kid=kid,
                manifest=b"{}",
                size_bytes=1,
                file_sha256=bytes(32),
                store_key="x",
                dek_secret_id=secret,
                not_before=now,
                uploaded_at=now,
                uploaded_by="test",
            )
        )
        await session.execute(
            sa.insert(tables.releases).values(
                id=release,
                name="m",
                version="1",
                package_digest=digest,
                notes="",
                created_at=now,
                created_by="test",
            )
        )
        for targets in fleets:
            made.append(new_id())
            await session.execute(
                sa.insert(tables.deployments).values(
                    id=made[-1],
                    release_id=release,
                    fleets=targets,
                    selector="",
                    strategy={},
                    state="paused",
                    salt=bytes(16),
                    created_at=now,
                    created_by="test",
                )
            )
            await session.execute(
                sa.insert(tables.deployment_agents).values(
                    deployment_id=made[-1],
                    agent_id=running.agent_id,
                    stage=0,
                    state="pending",
                    updated_at=now,
                )
            )
    return made


async def test_many_agents_move_at_once_and_none_is_lost(stack: Stack) -> None:
    old, new = await stack.new_fleet(), await stack.new_fleet()
    agents = [stack.start(*await stack.enroll(old)) for _ in range(MOVERS)]
    await asyncio.gather(*(stack.until_presence(one.agent_id, "online") for one in agents))
    for one in agents:
        assert (await order(stack, one.agent_id, new)).status_code == 200
    await asyncio.gather(*(until_in(stack, one.agent_id, new) for one in agents))
    await asyncio.gather(*(stack.until_superseded(one.agent_id, 1) for one in agents))
