"""The kill switch for a fleet: everybody of it, nobody else, all at once."""

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa

from tensorguard.services.errors import FleetNotFound
from tensorguard.services.revocation.fleet_revocations import FleetReceipt, list_fleet_receipts
from tensorguard.store import tables
from tensorguard.store.ids import new_id
from tests.integration.revocations.builders import ANOTHER, NOW, SOMEBODY, Site

SECOND = timedelta(seconds=1)


async def test_every_agent_is_revoked_who_waits_is_rejected_and_others_stay(site: Site) -> None:
    fleet, other = await site.fleet(20), await site.fleet(3)
    await site.agents(fleet, 4, status="pending")
    (before,) = await site.agents(fleet, 1)
    await site.revoke(before)
    receipt = await site.revoke_fleet(fleet)
    assert (receipt.agents, receipt.state, receipt.took_ms) == (20, "complete", None)
    assert await site.statuses(fleet) == {"revoked": 21, "rejected": 4}
    assert await site.statuses(other) == {"active": 3}
    agent = tables.agents.c
    query = sa.select(agent.status_reason, sa.func.count()).where(agent.fleet == fleet)
    assert sorted(await site.rows(query.group_by(agent.status_reason))) == [
        ("breach", 24),
        ("stolen", 1),
    ]
    revoked = tables.revocations.c
    numbers = await site.rows(sa.select(revoked.seq, revoked.revoked_by).order_by(revoked.seq))
    assert numbers == [(seq, SOMEBODY.id) for seq in range(1, 22)]
    (row,) = await site.rows(sa.select(tables.fleet_revocations))
    assert row[1:] == (fleet, "breach", 20, 2, 21, NOW, SOMEBODY.id, ANOTHER.id)


async def test_nobody_joins_it_by_themselves_any_more(site: Site) -> None:
    fleet, other = await site.fleet(1), await site.fleet(1)
    good, spent = await site.token(fleet), await site.token(fleet, uses_left=0)
    expired = await site.token(fleet, expires_at=NOW - SECOND)
    revoked = await site.token(fleet, revoked_at=NOW - SECOND)
    foreign = await site.token(other)
    ca = {
        "id": new_id(),
        "fleet": fleet,
        "name": "maker",
        "certificate": "",
        "spki_sha256": bytes(32),
        "approval": "auto",
        "tags": {},
        "max_agents": 5,
        "state": "active",
        "challenge": "",
        "challenge_expires_at": NOW,
        "not_after": NOW,
        "created_at": NOW,
        "created_by": "test",
    }
    await site.run(sa.insert(tables.manufacturer_cas).values(ca))
    await site.revoke_fleet(fleet)
    token = tables.enrollment_tokens.c
    ends = dict(await site.rows(sa.select(token.id, token.revoked_at)))  # type: ignore[arg-type] # pairs
    assert ends == {
        good: NOW,
        spent: NOW,
        expired: None,
        revoked: NOW - SECOND,
        foreign: None,
    }
    assert await site.rows(sa.select(tables.manufacturer_cas.c.approval)) == [("manual",)]
    (told,) = await site.told(fleet, "fleet.revoked")
    assert (told["details"]["tokens"], told["details"]["manufacturer_cas"]) == (2, 1)
    assert [len(await site.told(one, "token.revoked")) for one in (good, spent)] == [1, 1]


async def test_the_ledger_has_one_entry_for_the_fleet_and_one_for_each_agent(site: Site) -> None:
    fleet = await site.fleet()
    active = await site.agents(fleet, 3)
    (pending,) = await site.agents(fleet, 1, status="pending")
    receipt = await site.revoke_fleet(fleet)
    (told,) = await site.told(fleet)
    assert (told["type"], told["actor"]["id"]) == ("fleet.revoked", SOMEBODY.id)
    assert told["details"] == {
        "revocation_id": str(receipt.id),
        "reason": "breach",
        "approved_by": ANOTHER.id,
        "agents": 3,
        "rejected": 1,
        "tokens": 0,
        "manufacturer_cas": 0,
        "first_seq": 1,
        "last_seq": 3,
    }
    for agent_id in active:
        (entry,) = await site.told(agent_id)
        assert (entry["type"], entry["actor"]["id"]) == ("agent.revoked", SOMEBODY.id)
        assert entry["details"]["fleet_revocation_id"] == str(receipt.id)
        assert entry["details"]["approved_by"] == ANOTHER.id
    assert [entry["type"] for entry in await site.told(pending)] == ["agent.rejected"]


async def test_once_more_it_revokes_who_came_in_between(site: Site) -> None:
    fleet = await site.fleet(2)
    await site.revoke_fleet(fleet)
    await site.agents(fleet, 1)
    assert (await site.revoke_fleet(fleet)).agents == 1
    empty = await site.revoke_fleet(fleet)
    assert (empty.agents, empty.state, empty.last_seq) == (0, "complete", None)


async def test_a_fleet_that_there_is_not_is_named(site: Site) -> None:
    with pytest.raises(FleetNotFound):
        await site.revoke_fleet("nowhere")


async def test_single_revocations_at_the_same_time_are_each_counted_once(site: Site) -> None:
    fleet = await site.fleet()
    token = await site.token(fleet)
    agents = await site.agents(fleet, 20, token=token)
    await asyncio.gather(
        *(site.revoke(one) for one in agents[:5]),
        site.revoke_fleet(fleet),
        *(site.revoke(one) for one in agents[5:8]),
        site.revoke_fleet(fleet),
    )
    assert await site.statuses(fleet) == {"revoked": 20}
    seqs = await site.rows(sa.select(tables.revocations.c.agent_id))
    assert sorted(seqs) == sorted((one,) for one in agents)


async def test_its_receipt_waits_for_every_front_and_tells_the_slowest(site: Site) -> None:
    fleet = await site.fleet(5)
    one, two = await site.front(0), await site.front(0, lease=-SECOND)
    receipt = await site.revoke_fleet(fleet)
    assert receipt.last_seq == 5
    assert (receipt.state, receipt.denied_at_every_front) == ("partial", False)
    assert (sorted(receipt.waiting_for), receipt.not_answering) == (sorted([one, two]), [two])
    await site.confirm(one, 1, 3, after=SECOND / 10, ended=1)
    half = await _receipt(site, fleet)
    assert one in half.waiting_for, "the last of them is not confirmed"
    assert (half.disconnected, half.took_ms) == (3, 100)
    await site.confirm(one, 4, 5, after=SECOND / 5)
    assert (await _receipt(site, fleet)).waiting_for == [two]
    await site.confirm(two, 1, 5, after=2 * SECOND, ended=1)
    whole = await _receipt(site, fleet)
    assert (whole.state, whole.disconnected, whole.took_ms) == ("complete", 8, 2000)


async def _receipt(site: Site, fleet: str) -> FleetReceipt:
    async with site.sessions() as session:
        (receipt,) = await list_fleet_receipts(session, fleet, now=NOW)
        return receipt


@pytest.mark.deep
async def test_ten_thousand_agents_end_in_one_transaction(site: Site) -> None:
    fleet = await site.fleet(10_000)
    began = asyncio.get_running_loop().time()
    receipt = await site.revoke_fleet(fleet)
    print(f"10,000 agents revoked in {asyncio.get_running_loop().time() - began:.2f} s")
    assert receipt.agents == 10_000
    assert await site.statuses(fleet) == {"revoked": 10_000}
    query = sa.select(sa.func.count()).select_from(tables.ledger_events)
    assert await site.rows(query) == [(10_001,)]
