"""Heartbeats: the newest wins, history holds what was accepted, and nothing twice."""

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.batch import sort
from hub.heartbeats import StoredHeartbeat, store_heartbeats
from hub.uplink import Uplink
from tensorguard.protocol.topics import UpKind
from tensorguard.store.engine import (
    SessionMaker,
    create_engine,
    driver_connection,
    session_maker,
)
from tests.integration.hub.builders import Clock, add_agent, add_fleet, uplink
from tests.postgres import Database
from tests.unit.protocol.builders import SHA256

NOW = Clock().now
MINUTE = timedelta(minutes=1)


def beat(agent_id: UUID, seq: int, at: datetime = NOW, **changes: Any) -> Uplink:
    return uplink(UpKind.HEARTBEAT, agent_id, at, seq=seq, **changes)


async def store(sessions: SessionMaker, *beats: Uplink) -> list[StoredHeartbeat]:
    async with sessions.begin() as session:
        return await store_heartbeats(
            await driver_connection(session), sort(beats).heartbeats, {"hospital-a": 2 * MINUTE}
        )


async def history(sessions: SessionMaker, agent_id: UUID) -> list[tuple[int, int]]:
    async with sessions() as session:
        rows = await session.execute(
            sa.text(
                "SELECT boot_count, seq FROM heartbeats WHERE agent_id = :id"
                " ORDER BY boot_count, seq"
            ),
            {"id": agent_id},
        )
        return [(row.boot_count, row.seq) for row in rows]


async def state(sessions: SessionMaker, agent_id: UUID) -> sa.Row[Any]:
    async with sessions() as session:
        rows = await session.execute(
            sa.text("SELECT * FROM agent_state WHERE agent_id = :id"), {"id": agent_id}
        )
        return rows.one()


async def test_the_newest_heartbeat_becomes_the_agents_state(sessions: SessionMaker) -> None:
    agent_id = await add_agent(sessions, NOW)
    [stored] = await store(sessions, beat(agent_id, 7))
    row = await state(sessions, agent_id)
    assert stored.source.agent_id == agent_id
    assert (row.boot_count, row.seq, row.status, row.agent_version) == (3, 7, "degraded", "0.1.0")
    assert (row.cpu_percent, row.memory_percent, row.temperature_c) == (12.5, 50, -12.5)
    assert row.metrics == {"inferences": 12.0}
    assert row.accelerators == [{"name": "gpu0", "util_percent": 1, "memory_percent": 2}]
    assert bytes(row.package_digest).hex() == bytes(row.ledger_root).hex() == SHA256
    assert (row.desired_epoch, row.desired_revision) == (1, 4)
    assert (row.config_revision, row.trust_version, row.ledger_size) == (2, 1, 10)
    # The fleet reports every two minutes: late after one and a half, offline after three.
    assert (row.received_at, row.late_after) == (NOW, NOW + 3 * MINUTE)
    assert row.offline_after == NOW + 6 * MINUTE


async def test_history_holds_the_numbers_of_the_heartbeat(sessions: SessionMaker) -> None:
    agent_id = await add_agent(sessions, NOW)
    await store(sessions, beat(agent_id, 7))
    async with sessions() as session:
        row = (await session.execute(sa.text("SELECT * FROM heartbeats"))).one()
    assert (row.agent_id, row.received_at, row.boot_count, row.seq) == (agent_id, NOW, 3, 7)
    assert (row.cpu_percent, row.disk_percent, row.temperature_c) == (
        12.5,
        pytest.approx(99.9),
        -12.5,
    )
    assert bytes(row.package_digest).hex() == SHA256
    assert (row.metrics, row.status) == ({"inferences": 12.0}, "degraded")


async def test_a_redelivered_heartbeat_is_stored_once(sessions: SessionMaker) -> None:
    agent_id = await add_agent(sessions, NOW)
    assert len(await store(sessions, beat(agent_id, 1))) == 1
    assert await store(sessions, beat(agent_id, 1, cpu_percent=99)) == []
    assert await history(sessions, agent_id) == [(3, 1)]
    assert (await state(sessions, agent_id)).cpu_percent == 12.5


async def test_a_heartbeat_twice_in_one_batch_is_stored_once(sessions: SessionMaker) -> None:
    agent_id = await add_agent(sessions, NOW)
    assert len(await store(sessions, beat(agent_id, 1), beat(agent_id, 1))) == 1
    assert await history(sessions, agent_id) == [(3, 1)]


async def test_a_straggler_is_dropped(sessions: SessionMaker) -> None:
    agent_id = await add_agent(sessions, NOW)
    await store(sessions, beat(agent_id, 5))
    assert await store(sessions, beat(agent_id, 4)) == []
    assert await history(sessions, agent_id) == [(3, 5)]


async def test_a_batch_gives_what_the_same_messages_give_one_by_one(
    sessions: SessionMaker,
) -> None:
    together, apart = await add_agent(sessions, NOW), await add_agent(sessions, NOW)
    order = [(3, 2), (3, 1), (3, 3), (2, 9), (4, 0), (3, 4), (4, 0), (4, 2)]
    await store(sessions, *(beat(together, seq, boot_count=boot) for boot, seq in order))
    for boot, seq in order:
        await store(sessions, beat(apart, seq, boot_count=boot))
    expected = [(3, 2), (3, 3), (4, 0), (4, 2)]
    assert await history(sessions, together) == await history(sessions, apart) == expected
    row = await state(sessions, together)
    assert (row.boot_count, row.seq) == (4, 2)


async def test_after_a_restart_the_numbers_begin_anew(sessions: SessionMaker) -> None:
    agent_id, boot_id = await add_agent(sessions, NOW), uuid4()
    await store(sessions, beat(agent_id, 500))
    [stored] = await store(sessions, beat(agent_id, 0, boot_count=4, boot_id=str(boot_id)))
    assert stored.source.message.boot_id == boot_id
    assert await store(sessions, beat(agent_id, 501)) == []
    assert (await state(sessions, agent_id)).boot_id == boot_id


async def test_an_unknown_agent_is_dropped_and_others_are_not(sessions: SessionMaker) -> None:
    known, unknown = await add_agent(sessions, NOW), uuid4()
    stored = await store(sessions, beat(unknown, 1), beat(known, 1))
    assert [one.source.agent_id for one in stored] == [known]
    assert await history(sessions, unknown) == []


async def test_a_change_of_package_is_told_once(sessions: SessionMaker) -> None:
    agent_id = await add_agent(sessions, NOW)
    other = {"name": "m", "version": "2", "digest": "cd" * 32}
    told = [
        (await store(sessions, beat(agent_id, seq, package=package)))[0].package_changed
        for seq, package in enumerate([None, GOOD_PACKAGE, GOOD_PACKAGE, other, None])
    ]
    assert told == [False, True, False, True, True]


GOOD_PACKAGE = {"name": "m", "version": "1", "digest": SHA256}


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu_percent": 1e-300, "memory_percent": 5e-324, "disk_percent": 0},
        {"temperature_c": -1e-200},
        {"metrics": {"small": 5e-324, "large": 1.7976931348623157e308, "zero": -0.0}},
        {"agent_version": 'a"b\\c{},NULL'},
        {"agent_version": "ẞ日本🙂"},
        {"agent_version": ""},
        {"metrics": {'quo"te\\': 1.0, "{},": 2.0}},
        {"sent_at": "0002-01-01T00:00:00Z"},
        {"sent_at": "9998-12-31T23:59:59.999999Z"},
        {"boot_count": 2**53 - 1, "has": {"config": 2**53 - 1, "trust": 2**53 - 1}},
        {"accelerators": [{"name": "\\", "util_percent": 1e-300, "memory_percent": 0}] * 16},
    ],
    ids=str,
)
async def test_whatever_decodes_can_be_stored_and_read_back(
    sessions: SessionMaker, changes: dict[str, Any]
) -> None:
    agent_id = await add_agent(sessions, NOW)
    assert len(await store(sessions, beat(agent_id, 2**53 - 1, **changes))) == 1
    row = await state(sessions, agent_id)
    assert row.agent_version == changes.get("agent_version", "0.1.0")
    assert row.metrics == changes.get("metrics", {"inferences": 12.0})
    assert len(await history(sessions, agent_id)) == 1


@given(
    st.fixed_dictionaries(
        {
            "agent_version": st.text(max_size=64),
            "cpu_percent": st.floats(0, 100),
            "temperature_c": st.none() | st.floats(-274, 2000),
            "metrics": st.dictionaries(
                st.text(min_size=1, max_size=9), st.floats(allow_nan=False, allow_infinity=False)
            ),
            "sent_at": st.datetimes().map(lambda at: at.isoformat() + "Z"),
        }
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_heartbeat_that_decodes_is_refused_by_the_database(
    sessions: SessionMaker, changes: dict[str, Any]
) -> None:
    agent_id = await add_agent(sessions, NOW)
    sorted_ = sort([beat(agent_id, 1, **changes)])
    stored = await store(sessions, beat(agent_id, 1, **changes))
    assert len(stored) == len(sorted_.heartbeats)
    if stored:
        row = await state(sessions, agent_id)
        assert row.agent_version == changes["agent_version"]
        assert row.cpu_percent == pytest.approx(changes["cpu_percent"], abs=0.001)


async def test_two_hubs_with_the_same_agents_in_opposite_order_never_deadlock(
    sessions: SessionMaker,
) -> None:
    agents = [await add_agent(sessions, NOW) for _ in range(40)]

    async def hub(order: Sequence[UUID], boot: int) -> None:
        for seq in range(25):
            await store(sessions, *(beat(one, seq, boot_count=boot) for one in order))

    async with asyncio.TaskGroup() as tasks:
        for boot in range(4):
            order = agents[:: -1 if boot % 2 else 1]
            tasks.create_task(hub(order, boot))
    row = await state(sessions, agents[0])
    assert (row.boot_count, row.seq) == (3, 24)


async def test_two_hubs_with_the_same_messages_store_each_once(sessions: SessionMaker) -> None:
    agents = [await add_agent(sessions, NOW) for _ in range(10)]

    async def hub(seed: int) -> None:
        for seq in range(20):
            beats = [beat(one, seq) for one in agents]
            random.Random(seed).shuffle(beats)
            await store(sessions, *beats)

    async with asyncio.TaskGroup() as tasks:
        for seed in range(3):
            tasks.create_task(hub(seed))
    for agent_id in agents:
        assert await history(sessions, agent_id) == [(3, seq) for seq in range(20)]


async def updates(sessions: SessionMaker) -> tuple[int, int]:
    """How many rows of agent_state were updated so far, and how many of them heap-only."""
    async with sessions.begin() as session:
        await session.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    async with sessions() as session:
        statement = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = :name"
        row = (await session.execute(sa.text(statement), {"name": "agent_state"})).one()
        return row.n_tup_upd, row.n_tup_hot_upd


async def test_every_update_of_the_state_is_heap_only(fresh_database: Database) -> None:
    """But for rows that grow when an agent first reports, and while an old snapshot is held."""
    engine = create_engine(fresh_database.app_url, service="test")
    sessions = session_maker(engine)
    await add_fleet(sessions, NOW)
    agents = [await add_agent(sessions, NOW) for _ in range(60)]

    async def share_of_ten_rounds(first: int) -> float:
        before = await updates(sessions)
        for seq in range(first, first + 10):
            at = NOW + timedelta(seconds=seq)
            await store(sessions, *(beat(one, seq, at, metrics={"n": seq}) for one in agents))
        after = await updates(sessions)
        assert after[0] - before[0] == 600
        return (after[1] - before[1]) / 600

    # An autovacuum's snapshot spoils those it falls into; an index on what changes leaves 0 in all.
    shares = [await share_of_ten_rounds(first) for first in range(100, 180, 10)]
    await engine.dispose()
    assert max(shares) > 0.5
