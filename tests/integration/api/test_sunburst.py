"""The sunburst: every agent once, for its gravest reason, and the list that a number leads to."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from api.compliance.sunburst import REFRESHED_FOR_S, Sunbursts
from api.context import utc_now
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import (
    AgentDenied,
    AgentFlooding,
    AgentReported,
    EventConflict,
    MessagePoisoned,
)
from tensorguard.services.people.access import Role
from tensorguard.store import tables
from tensorguard.store.standing import ENDS_SOON, HELD_AGAINST_FOR, REASONS
from tests.integration.api.clients import Api
from tests.integration.api.standings import change, new_agents, record, run
from tests.patience import PATIENCE_S

SUNBURST = "/api/v1/compliance/sunburst"
AGENTS = "/api/v1/agents"
SMALL = timedelta(minutes=10)


def reported(agent: UUID, fleet: str, what: Any) -> AgentReported:
    return AgentReported(
        by=Actor("agent", str(agent)),
        fleet=fleet,
        agent_id=agent,
        reported=what,
        log_id=uuid4(),
        number=1,
        at=utc_now(),
        data={},
    )


def denied(agent: UUID, fleet: str) -> AgentDenied:
    return AgentDenied(
        by=Actor("service", "front"),
        fleet=fleet,
        agent_id=agent,
        operation="publish",
        reason="topic",
        count=3,
    )


async def stand(api: Api, fleet: str) -> dict[str, UUID]:
    """One agent for each reason, each with lighter ones beside it where it can have them."""
    now = utc_now()
    agents = dict(zip(REASONS, await new_agents(api, fleet, len(REASONS), now=now), strict=True))
    status, certificate = tables.agent_status, tables.certificates
    await change(api, tables.agents, agents["revoked"], status="revoked", revoked_at=now)
    for why, presence in (
        ("revoked", "offline"),
        ("decryption-failed", "offline"),
        ("certificate-expired", "offline"),
        ("offline", "offline"),
        ("flooding", "late"),
        ("late", "late"),
    ):
        await change(api, status, agents[why], presence=presence)
    await run(api, sa.delete(status).where(status.c.agent_id == agents["never-seen"]))
    await change(api, status, agents["low-trust"], trust_score=49)
    await change(api, status, agents["online"], trust_score=50)
    await change(api, certificate, agents["certificate-expired"], not_after=now - SMALL)
    soon = agents["certificate-ends-soon"]
    await change(api, certificate, soon, not_after=now + ENDS_SOON - SMALL)
    enough = now + ENDS_SOON + SMALL
    await change(api, certificate, agents["online"], not_after=enough)
    hub = Actor("service", "hub")
    await record(
        api,
        reported(agents["revoked"], fleet, "decryption.failed"),
        reported(agents["decryption-failed"], fleet, "decryption.failed"),
        denied(agents["decryption-failed"], fleet),
        reported(agents["signature-refused"], fleet, "signature.refused"),
        reported(agents["policy-violation"], fleet, "policy.violation"),
        denied(agents["operation-denied"], fleet),
        EventConflict(
            by=hub,
            fleet=fleet,
            agent_id=agents["conflicting-events"],
            log_id=uuid4(),
            number=1,
            stored_sha256=bytes(32),
            received_sha256=bytes(32),
        ),
        AgentFlooding(
            by=hub,
            fleet=fleet,
            agent_id=agents["flooding"],
            count=5,
            digest="00" * 32,
            since=now,
            until=now,
        ),
        MessagePoisoned(
            by=hub,
            fleet=fleet,
            agent_id=agents["unreadable-messages"],
            kind="event",
            reason="bad-message",
            count=1,
        ),
        reported(agents["online"], fleet, "model.decrypted"),
        at=now - HELD_AGAINST_FOR + SMALL,
    )
    # Too long ago to be held against anybody.
    old = [denied(agents[why], fleet) for why in ("online", "late")]
    await record(api, *old, at=now - HELD_AGAINST_FOR - SMALL)
    return agents


async def told(api: Api, fleet: str) -> dict[str, Any]:
    fleets = (await api.admin.get(SUNBURST)).json()["fleets"]
    found: dict[str, Any] = next(one for one in fleets if one["fleet"] == fleet)
    return found


def reasons(fleet: dict[str, Any]) -> dict[str, int]:
    return {one["reason"]: one["agents"] for band in fleet["bands"] for one in band["reasons"]}


async def test_each_agent_stands_for_its_gravest_reason(api: Api) -> None:
    fleet = await api.new_fleet()
    agents = await stand(api, fleet)
    found = await told(api, fleet)
    assert reasons(found) == dict.fromkeys(REASONS, 1)
    assert [(band["band"], band["agents"]) for band in found["bands"]] == [
        ("revoked", 1),
        ("at-risk", 6),
        ("attention", 6),
        ("compliant", 2),
    ]
    assert (found["agents"], found["name"]) == (len(agents), "Hospital A")


async def test_a_number_leads_to_exactly_those_agents(api: Api) -> None:
    fleet = await api.new_fleet()
    agents = await stand(api, fleet)
    for wanted in (*REASONS, "at-risk", "attention", "compliant"):
        query = {"fleet": fleet, "compliance": wanted}
        items = (await api.admin.get(AGENTS, params=query)).json()["items"]
        found = {item["id"] for item in items}
        if wanted in agents:
            assert found == {str(agents[wanted])}, wanted
        else:
            bands = {band["band"]: band for band in (await told(api, fleet))["bands"]}
            expected = {str(agents[one["reason"]]) for one in bands[wanted]["reasons"]}
            assert found == expected, wanted
    online = {"compliance": "online", "fleet": fleet, "presence": "offline"}
    assert (await api.admin.get(AGENTS, params=online)).json()["items"] == []
    assert (await api.admin.get(AGENTS, params={"compliance": "fine"})).status_code == 422


async def test_who_was_not_let_in_or_came_back_as_another_is_nobodys_and_a_move_is_followed(
    api: Api,
) -> None:
    fleet, other = await api.new_fleet(), await api.new_fleet()
    now = utc_now()
    pending, rejected, released, moved, stays = await new_agents(api, fleet, 5, now=now)
    await change(api, tables.agents, pending, status="pending")
    await change(api, tables.agents, rejected, status="rejected")
    await change(api, tables.agents, released, status="revoked", revoked_at=now, released_at=now)
    await record(api, denied(moved, fleet), at=now)
    await change(api, tables.agents, moved, fleet=other)
    assert reasons(await told(api, fleet)) == {"online": 1}
    assert reasons(await told(api, other)) == {"operation-denied": 1}
    # A second certificate that was not used yet is one that the agent can go on with.
    short, good = tables.certificates, now + timedelta(days=3)
    await change(api, short, stays, not_after=now + SMALL)
    assert reasons(await told(api, fleet)) == {"certificate-ends-soon": 1}
    columns = {
        "serial": uuid4().hex,
        "agent_id": stays,
        "spki_sha256": bytes(32),
        "certificate": "PEM",
        "not_before": now,
        "not_after": good,
        "issued_at": now,
        "authority_key_id": b"key",
    }
    await run(api, sa.insert(short).values(**columns))
    assert reasons(await told(api, fleet)) == {"online": 1}
    await run(api, sa.update(short).where(short.c.not_after == good).values(superseded_at=now))
    assert reasons(await told(api, fleet)) == {"certificate-ends-soon": 1}


async def test_the_whole_is_the_sum_of_the_fleets_and_every_role_may_see_it(api: Api) -> None:
    await stand(api, await api.new_fleet())
    viewer = await api.as_role(Role.VIEWER)
    answer = (await viewer.get(SUNBURST)).json()
    whole: Counter[str] = Counter()
    for fleet in answer["fleets"]:
        whole.update(reasons(fleet))
    assert reasons(answer) == dict(whole)
    sizes = [fleet["agents"] for fleet in answer["fleets"]]
    assert sizes == sorted(sizes, reverse=True)
    assert (answer["more_fleets"], answer["more_agents"]) == (0, 0)
    assert (await api.nobody.get(SUNBURST)).status_code == 401


async def test_of_many_agents_no_request_waits_for_a_new_count(api: Api) -> None:
    fleet = await api.new_fleet()
    await new_agents(api, fleet, 2, now=utc_now())
    seconds = 0.0
    kept = Sunbursts(api.context.sessions, utc_now, lambda: seconds, few=0)

    async def agents() -> int:
        found = (await kept.get()).fleets
        return next(one.agents for one in found if one.fleet == fleet)

    assert await agents() == 2
    await new_agents(api, fleet, 1, now=utc_now())
    assert await agents() == 2  # as it was, at once
    seconds = REFRESHED_FOR_S + 1
    assert await agents() == 2  # and from now on it is read again, for whoever asks next
    async with asyncio.timeout(PATIENCE_S):
        while await agents() != 3:  # noqa: ASYNC110  whoever asks next is told: that is what counts
            await asyncio.sleep(0)
