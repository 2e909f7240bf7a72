"""The receipt in the ledger: partial once where it has to be, complete once when it is."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg

from tests.integration.revocations.builders import NOW, Site
from tests.postgres import Database

SECOND = timedelta(seconds=1)


async def _told(site: Site, subject: object, kind: str) -> list[tuple[str, dict[str, Any]]]:
    entries = await site.told(subject, f"{kind}.revocation-")
    return [(entry["type"].partition("revocation-")[2], entry["details"]) for entry in entries]


async def _agent(site: Site) -> UUID:
    (agent_id,) = await site.agents(await site.fleet(), 1)
    return agent_id


async def test_without_a_front_it_is_complete_at_once_and_told_once(site: Site) -> None:
    agent_id = await _agent(site)
    await site.revoke(agent_id)
    assert [await site.reconcile(NOW + number * SECOND) for number in range(3)] == [1, 0, 0]
    assert await _told(site, agent_id, "agent") == [
        ("confirmed", {"seq": 1, "fronts_ms": {}, "disconnected": 0})
    ]


async def test_a_front_that_does_not_confirm_is_named_once_and_then_it_is_complete(
    site: Site,
) -> None:
    agent_id = await _agent(site)
    quick, slow = await site.front(0), await site.front(0)
    await site.revoke(agent_id)
    await site.confirm(quick, 1, 1, after=SECOND / 20, ended=1)
    assert await site.reconcile(NOW + 9 * SECOND) == 0
    assert await _told(site, agent_id, "agent") == []
    for later in (10, 15, 20):
        assert await site.reconcile(NOW + later * SECOND) == 0
    partial = {
        "seq": 1,
        "fronts_ms": {quick: 50},
        "disconnected": 1,
        "waiting_for": [slow],
        "not_answering": [slow],
    }
    assert await _told(site, agent_id, "agent") == [("partial", partial)]
    await site.confirm(slow, 1, 1, after=22 * SECOND, ended=1)
    assert await site.reconcile(NOW + 25 * SECOND) == 1
    assert await site.reconcile(NOW + 30 * SECOND) == 0
    complete = {"seq": 1, "fronts_ms": {quick: 50, slow: 22_000}, "disconnected": 2}
    assert await _told(site, agent_id, "agent") == [("partial", partial), ("confirmed", complete)]


async def test_a_front_with_a_lease_that_has_not_applied_it_is_waited_for_and_not_silent(
    site: Site,
) -> None:
    agent_id = await _agent(site)
    front = await site.front(0, lease=timedelta(minutes=1))
    receipt = await site.revoke(agent_id)
    assert (receipt.state, receipt.waiting_for, receipt.not_answering) == ("partial", [front], [])


async def test_a_front_is_forgotten_when_it_has_ended_its_sessions_and_not_before(
    site: Site,
) -> None:
    agent_id = await _agent(site)
    front = await site.front(0, lease=timedelta(0))
    await site.revoke(agent_id)
    # It ends them five minutes after its last look; the clocks differ by a minute at most.
    nearly = await site.receipt(agent_id, now=NOW + timedelta(minutes=6) - SECOND)
    assert (nearly.waiting_for, nearly.not_answering) == ([front], [front])
    assert await site.reconcile(NOW + timedelta(minutes=6)) == 1


async def test_a_front_that_started_later_is_not_waited_for(site: Site) -> None:
    agent_id = await _agent(site)
    await site.revoke(agent_id)
    await site.front(1)
    assert (await site.receipt(agent_id)).state == "complete"


async def test_a_fleets_receipt_is_one_entry_and_none_for_each_agent(site: Site) -> None:
    fleet = await site.fleet()
    agents = await site.agents(fleet, 4)
    front = await site.front(0)
    receipt = await site.revoke_fleet(fleet)
    assert await site.reconcile(NOW + 10 * SECOND) == 0
    await site.confirm(front, 1, 4, after=SECOND, ended=1)
    assert await site.reconcile(NOW + 11 * SECOND) == 1
    common = {"revocation_id": str(receipt.id), "agents": 4}
    waiting = {"waiting_for": [front], "not_answering": [front]}
    assert await _told(site, fleet, "fleet") == [
        ("partial", {**common, **waiting, "fronts_ms": {}, "disconnected": 0}),
        ("confirmed", {**common, "fronts_ms": {front: 1000}, "disconnected": 4}),
    ]
    assert [await _told(site, one, "agent") for one in agents] == [[]] * 4


async def test_however_many_reconcile_each_entry_is_written_once(site: Site) -> None:
    fleet = await site.fleet()
    agents = await site.agents(fleet, 30)
    for agent_id in agents:
        await site.revoke(agent_id)
    done = await asyncio.gather(*(site.reconcile(NOW + SECOND) for _ in range(5)))
    assert sum(done) == 30
    assert [len(await _told(site, one, "agent")) for one in agents] == [1] * 30


async def test_while_somebody_is_waited_for_the_fronts_are_notified_again(
    site: Site, fresh_database: Database
) -> None:
    agent_id = await _agent(site)
    await site.front(0)
    await site.revoke(agent_id)
    async with await psycopg.AsyncConnection.connect(
        fresh_database.app_url, autocommit=True
    ) as listener:
        await listener.execute("LISTEN tg_revocations")
        await site.reconcile(NOW + SECOND)
        assert [one.channel async for one in listener.notifies(timeout=2, stop_after=1)]
        await site.fronts_are_gone()
        await site.reconcile(NOW + SECOND)
        assert [one async for one in listener.notifies(timeout=0.2)] == []
