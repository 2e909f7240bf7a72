"""Commands to agents: sent with a heartbeat until acknowledged, signed once, ended once."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from hub.upkeep import Upkeep
from hub.work import Work
from tensorguard.protocol.envelope import open_signed
from tensorguard.protocol.messages import Command
from tensorguard.protocol.topics import DownKind, UpKind
from tensorguard.services.errors import Invalid
from tensorguard.services.evidence.events import Actor
from tensorguard.services.fleets.commands import (
    CommandKind,
    CommandRow,
    issue_command,
    list_commands,
)
from tensorguard.store.tables import agents
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.hub.builders import Hub, uplink

OPERATOR = Actor("user", "operator")
HOUR = timedelta(hours=1)


async def issue(
    hub: Hub, agent_id: UUID, kind: CommandKind = "diagnostics", **arguments: Any
) -> CommandRow:
    async with hub.sessions.begin() as session:
        return await issue_command(
            session,
            agent_id,
            kind,
            arguments=arguments,
            ttl=HOUR,
            by=OPERATOR,
            now=hub.clock.now,
        )


async def find(hub: Hub, agent_id: UUID) -> CommandRow:
    async with hub.sessions() as session:
        (row,) = await list_commands(session, agent_id, now=hub.clock.now)
    return row


async def reply(hub: Hub, agent_id: UUID, row: CommandRow, state: str, **more: Any) -> None:
    body = {"command_id": str(row.id), "state": state} | more
    await hub.take(uplink(UpKind.REPLY, agent_id, hub.clock.now, **body))


def received(hub: Hub, agent_id: UUID) -> list[bytes]:
    return hub.front.received(DownKind.COMMAND, agent_id)


async def test_a_command_is_sent_again_in_the_same_bytes_until_it_is_acknowledged(
    hub: Hub, tmp_path: Path
) -> None:
    agent_id, other = await hub.add_agent(), await hub.add_agent()
    row = await issue(hub, agent_id, deep=True)
    await hub.take(hub.heartbeat(other, 1))
    assert received(hub, other) == received(hub, agent_id) == []
    await hub.take(hub.heartbeat(agent_id, 1))
    hub.clock.advance(seconds=10)
    kek = LocalKeyProvider.open_or_create(tmp_path / KEK_FILE, hub.clock)
    hub.work = Work(hub.sessions, hub.keyring, kek, hub.clock)  # the hub has started anew
    await hub.take(hub.heartbeat(agent_id, 2))
    first, second = received(hub, agent_id)
    assert first == second
    command = open_signed(
        first,
        Command,
        keys=hub.keyring.trust.keys_for("command", hub.clock.now),
        trust_domain=hub.keyring.trust_domain,
        now=hub.clock.now,
        agent_id=agent_id,
    )
    assert (command.command_id, command.kind, command.arguments) == (
        row.id,
        "diagnostics",
        {"deep": True},
    )
    assert command.expires_at == row.expires_at
    assert (await find(hub, agent_id)).state == "sent"

    await reply(hub, agent_id, row, "acknowledged")
    await hub.take(hub.heartbeat(agent_id, 3))
    assert len(received(hub, agent_id)) == 2
    assert (await find(hub, agent_id)).state == "acknowledged"


async def test_only_its_agent_ends_a_command_and_only_once(hub: Hub) -> None:
    agent_id, other = await hub.add_agent(), await hub.add_agent()
    row = await issue(hub, agent_id)
    await hub.take(hub.heartbeat(agent_id, 1))
    await reply(hub, other, row, "done", result={"forged": True})
    assert (await find(hub, agent_id)).state == "sent"
    await reply(hub, agent_id, row, "done", result={"disk": "full"})
    await reply(hub, agent_id, row, "failed", result={"late": True})
    ended = await find(hub, agent_id)
    assert (ended.state, ended.result) == ("done", {"disk": "full"})
    (issued,) = await hub.entries("command.issued")
    (finished,) = await hub.entries("command.finished")
    assert issued["actor"] == {"kind": "user", "id": "operator"}
    assert finished["actor"] == {"kind": "agent", "id": str(agent_id)}
    assert (finished["details"]["kind"], finished["details"]["state"]) == ("diagnostics", "done")
    unknown = uplink(UpKind.REPLY, agent_id, hub.clock.now, command_id=str(uuid4()), state="done")
    await hub.take(unknown)
    assert len(await hub.entries("command.")) == 2


async def test_what_has_expired_is_not_sent_and_a_revoked_agent_gets_none(hub: Hub) -> None:
    late, revoked, begun = [await hub.add_agent() for _ in range(3)]
    await issue(hub, late)
    await issue(hub, revoked)
    slow = await issue(hub, begun, "restart")
    await hub.take(hub.heartbeat(begun, 1))
    await reply(hub, begun, slow, "acknowledged")
    async with hub.sessions.begin() as session:
        await session.execute(
            sa.update(agents).where(agents.c.id == revoked).values(status="revoked")
        )
    await hub.take(hub.heartbeat(revoked, 1))
    hub.clock.advance(hours=1)
    await hub.take(hub.heartbeat(late, 1))
    assert received(hub, late) == received(hub, revoked) == []
    upkeep = Upkeep(hub.sessions, hub.keyring, hub.work, hub.clock)
    for _ in range(2):
        await upkeep.step()
    ended = await hub.entries("command.finished")
    assert {one["subject"]["id"] for one in ended} == {str(late), str(revoked)}
    assert {one["details"]["state"] for one in ended} == {"expired"}
    assert len(ended) == 2
    await reply(hub, begun, slow, "done")  # its restart has taken long
    assert (await find(hub, begun)).state == "done"


async def test_tags_are_set_when_the_agent_has_agreed_and_never_before(hub: Hub) -> None:
    agent_id = await hub.add_agent()
    row = await issue(hub, agent_id, "set-tags", tags={"gpu": "true", "region": "north"})
    await hub.take(hub.heartbeat(agent_id, 1))
    await reply(hub, agent_id, row, "acknowledged")
    stored = "SELECT tags FROM agents WHERE id = :id"
    assert await hub.value(stored, id=agent_id) == {}
    await reply(hub, agent_id, row, "done")
    assert await hub.value(stored, id=agent_id) == {"gpu": "true", "region": "north"}
    (changed,) = await hub.entries("agent.tags-changed")
    assert changed["details"]["before"] == {}
    assert changed["details"]["after"] == {"gpu": "true", "region": "north"}
    refused = await issue(hub, agent_id, "set-tags", tags={})
    await reply(hub, agent_id, refused, "refused")
    assert await hub.value(stored, id=agent_id) == {"gpu": "true", "region": "north"}


async def test_tags_that_no_agent_may_have_are_refused_at_once(hub: Hub) -> None:
    agent_id = await hub.add_agent()
    wrong: list[dict[str, Any]] = [
        {},
        {"tags": ["gpu"]},
        {"tags": {"gpu": 1}},
        {"tags": {"no key!": "x"}},
        {"tags": {}, "more": 1},
        {"tags": {f"t{number}": "" for number in range(65)}},
    ]
    for arguments in wrong:
        with pytest.raises(Invalid):
            await issue(hub, agent_id, "set-tags", **arguments)
    assert await hub.entries("command.") == []
