"""Intake to ack: what cannot be used does not stop what can, and no outage loses anything."""

import asyncio
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from hub.dead_letters import forget_dead_letters
from hub.fleets import FleetConfigs
from hub.upkeep import Upkeep
from hub.uplink import Uplink
from tensorguard.protocol import topics
from tensorguard.protocol.topics import DownKind, FrontKind, UpKind
from tests.integration.hub.builders import FLEET, Hub, uplink
from tests.patience import PATIENCE_S
from tests.postgres import Database

LETTERS = "SELECT count(*) FROM dead_letters"
HISTORY = "SELECT count(*) FROM heartbeats"


def refuse(database: Database, table: str, condition: str) -> None:
    """Let the database refuse rows, as a check that this program does not know would."""
    with psycopg.connect(database.owner_url) as connection:
        connection.execute(f"ALTER TABLE {table} ADD CHECK (NOT ({condition})) NOT VALID")


def shut(database: Database) -> None:
    """End every connection to the database and let nobody in."""
    admin = database.superuser_url.replace(f"/{database.name}", "/postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        name = sql.Identifier(database.name)
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (database.name,),
        )


def open_again(database: Database) -> None:
    admin = database.superuser_url.replace(f"/{database.name}", "/postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        name = sql.Identifier(database.name)
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


async def test_all_kinds_at_once_are_stored_and_acked_in_order(hub: Hub) -> None:
    agent_id = await hub.add_agent()
    kinds = [FrontKind.CONNECTED, *UpKind, *FrontKind]
    messages = [uplink(kind, agent_id, hub.clock.now) for kind in kinds]
    await hub.take(*messages)
    assert hub.front.acked == messages
    assert await hub.value(HISTORY) == 1
    assert await hub.value(LETTERS) == 0


async def test_messages_are_taken_in_batches_and_acked_in_order(hub: Hub) -> None:
    agent_id = await hub.add_agent()
    messages = [hub.heartbeat(agent_id, seq) for seq in range(23)]
    await hub.take(*messages, batch_messages=5)
    assert hub.front.acked == messages
    assert await hub.value(HISTORY) == 23


async def test_what_cannot_be_read_is_kept_as_a_dead_letter_and_told(hub: Hub) -> None:
    agent_id = await hub.add_agent()
    topic = topics.up(FLEET, agent_id, UpKind.PROGRESS)
    bad = [Uplink(topic, b"\x00{" + bytes(9_000), hub.clock.now) for _ in range(3)]
    stranger = Uplink("tg/v1/x/y/up/heartbeat", b"{}", hub.clock.now)
    await hub.take(*bad, hub.heartbeat(agent_id, 1), stranger)
    rows = await hub.rows("SELECT * FROM dead_letters ORDER BY id")
    assert [row.agent_id for row in rows] == [agent_id] * 3 + [None]
    assert [row.code for row in rows] == ["bad-message"] * 3 + ["bad-topic"]
    assert (len(rows[0].payload), rows[0].payload_bytes) == (4096, 9_002)
    [entry] = await hub.entries("message.poisoned")
    assert (entry["details"]["count"], entry["details"]["kind"]) == (3, "progress")
    assert len(hub.front.acked) == 5
    assert await hub.value(HISTORY) == 1


async def test_an_agent_has_a_hundred_dead_letters_at_most_and_others_keep_theirs(
    hub: Hub,
) -> None:
    noisy, quiet = await hub.add_agent(), await hub.add_agent()

    def bad(agent_id: object, number: int) -> Uplink:
        topic = f"tg/v1/{FLEET}/{agent_id}/up/csr"
        return Uplink(topic, b"no json %d" % number, hub.clock.now)

    await hub.take(bad(quiet, 0), *(bad(noisy, number) for number in range(90)))
    await hub.take(*(bad(noisy, number) for number in range(90, 250)), batch_messages=50)
    await hub.take(*(Uplink("x", b"%d" % number, hub.clock.now) for number in range(130)))
    rows = await hub.rows("SELECT agent_id, payload FROM dead_letters ORDER BY id")
    kept = [bytes(row.payload) for row in rows if row.agent_id == noisy]
    assert kept == [b"no json %d" % number for number in range(150, 250)]
    assert len([row for row in rows if row.agent_id == quiet]) == 1
    assert len([row for row in rows if row.agent_id is None]) == 100


async def test_an_agent_that_sends_rubbish_for_an_hour_makes_an_entry_a_minute(hub: Hub) -> None:
    agent_id = await hub.add_agent()
    bad = Uplink(topics.up(FLEET, agent_id, UpKind.CSR), b"rubbish", hub.clock.now)
    for _ in range(60):
        for _ in range(2):
            await hub.take(bad)
        hub.clock.advance(minutes=1)
        await hub.work.tell_tallies()
    counts = [entry["details"]["count"] for entry in await hub.entries("message.poisoned")]
    assert sum(counts) == 120
    assert len(counts) == 61  # the first at once


async def test_dead_letters_are_forgotten_after_thirty_days(hub: Hub) -> None:
    await hub.take(Uplink("x", b"1", hub.clock.now))
    for days, left in ((30, 1), (0.001, 0)):
        now = hub.clock.advance(days=days)
        async with hub.sessions.begin() as session:
            await forget_dead_letters(session, now)
        assert await hub.value(LETTERS) == left


async def test_one_message_that_the_database_refuses_does_not_take_others_with_it(
    hub: Hub, fresh_database: Database
) -> None:
    refuse(fresh_database, "agent_state", "agent_version = 'cursed'")
    agents = [await hub.add_agent() for _ in range(20)]
    messages = [hub.heartbeat(agent_id, 1) for agent_id in agents]
    messages[13] = hub.heartbeat(agents[13], 1, agent_version="cursed")
    log_id = uuid4()
    messages.insert(14, hub.event(agents[13], log_id, 1))
    await hub.take(*messages)
    assert hub.front.acked == messages
    stored = await hub.rows("SELECT agent_id FROM heartbeats")
    assert {row.agent_id for row in stored} == {*agents} - {agents[13]}
    [letter] = await hub.rows("SELECT agent_id, code, reason FROM dead_letters")
    assert (letter.agent_id, letter.code) == (agents[13], "poison")
    assert "CheckViolation" in letter.reason or "IntegrityError" in letter.reason
    assert [ack.through for ack in hub.front.acks(agents[13])] == [1]
    assert len(await hub.entries("message.poisoned")) == 1


async def test_an_event_that_the_database_refuses_is_malformed_and_acked(
    hub: Hub, fresh_database: Database
) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    refuse(fresh_database, "ledger_events", "type = 'agent.reported.self-test'")
    await hub.take(
        hub.event(agent_id, log_id, 1),
        hub.event(agent_id, log_id, 2, type="self-test"),
        hub.event(agent_id, log_id, 3),
    )
    [entry] = await hub.entries("event.malformed")
    assert entry["details"]["number"] == 2
    assert hub.front.acks(agent_id)[-1].through == 3
    assert len(await hub.entries("agent.reported.")) == 2
    assert await hub.value(LETTERS) == 0


async def test_agents_that_another_hub_has_taken_over_are_left_to_it(hub: Hub) -> None:
    ours, theirs = await hub.add_agent(), await hub.add_agent()
    log_id = uuid4()
    messages = [hub.event(one, log_id, number) for number in (1, 2) for one in (ours, theirs)]
    hub.front.lost = {messages[1], messages[3]}
    await hub.take(*messages)
    assert hub.front.acked == [messages[0], messages[2]]
    assert [ack.through for ack in hub.front.acks(ours)] == [2]
    assert hub.front.acks(theirs) == []
    assert len(await hub.entries("agent.reported.")) == 2


async def test_while_the_database_is_away_nothing_is_acked_and_then_all_is_stored_once(
    hub: Hub, fresh_database: Database
) -> None:
    agent_id, log_id, stop = await hub.add_agent(), uuid4(), asyncio.Event()
    running = asyncio.create_task(hub.ingest().run(stop))
    try:
        hub.front.deliver(hub.heartbeat(agent_id, 1), hub.event(agent_id, log_id, 1))
        await hub.front.until_acked(2)
        await asyncio.to_thread(shut, fresh_database)
        hub.front.deliver(hub.heartbeat(agent_id, 2), hub.event(agent_id, log_id, 2))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await hub.front.until_acked(3)
        hub.front.deliver(hub.heartbeat(agent_id, 3), hub.event(agent_id, log_id, 3))
        assert len(hub.front.acks(agent_id)) == 1
        await asyncio.to_thread(open_again, fresh_database)
        await hub.front.until_acked(6)
    finally:
        stop.set()
        await running
    assert await hub.value(HISTORY) == 3
    told = [entry["details"]["number"] for entry in await hub.entries("agent.reported.")]
    assert told == [1, 2, 3]
    assert hub.front.acks(agent_id)[-1].through == 3
    assert await hub.value(LETTERS) == 0


async def test_an_outage_in_the_middle_of_a_split_batch_stores_and_acks_each_part_once(
    hub: Hub, fresh_database: Database
) -> None:
    """A denied operation has no key that would tell a second time from the first."""
    agents = [await hub.add_agent() for _ in range(4)]
    refuse(fresh_database, "agent_state", "agent_version = 'cursed'")
    messages = [
        uplink(FrontKind.DENIED, agents[0], hub.clock.now, count=5),
        hub.heartbeat(agents[1], 1),
        hub.heartbeat(agents[2], 1, agent_version="cursed"),
        hub.heartbeat(agents[3], 1),
    ]
    acked_before = asyncio.Event()
    original = hub.front.ack

    def ack_then_shut(uplinks: list[Uplink]) -> None:
        original(uplinks)
        if not acked_before.is_set():
            acked_before.set()
            shut(fresh_database)

    hub.front.ack = ack_then_shut  # type: ignore[assignment,method-assign] # the network's moment
    stop = asyncio.Event()
    running = asyncio.create_task(hub.ingest().run(stop))
    try:
        hub.front.deliver(*messages)
        async with asyncio.timeout(PATIENCE_S):
            await acked_before.wait()
        await asyncio.to_thread(open_again, fresh_database)
        await hub.front.until_acked(4)
    finally:
        stop.set()
        await running
    assert hub.front.acked == messages
    [entry] = await hub.entries("agent.denied")
    assert entry["details"]["count"] == 5
    assert await hub.value(HISTORY) == 2
    assert await hub.value(LETTERS) == 1


async def test_a_right_that_is_missing_makes_no_dead_letters(
    hub: Hub, fresh_database: Database
) -> None:
    agent_id, stop = await hub.add_agent(), asyncio.Event()

    def owner(statement: str) -> None:
        with psycopg.connect(fresh_database.owner_url) as connection:
            connection.execute(statement)

    await asyncio.to_thread(owner, "REVOKE INSERT ON heartbeats FROM tg_app")
    running = asyncio.create_task(hub.ingest().run(stop))
    try:
        hub.front.deliver(*(hub.heartbeat(agent_id, seq) for seq in range(5)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.7):
                await hub.front.until_acked(1)
        await asyncio.to_thread(owner, "GRANT INSERT ON heartbeats TO tg_app")
        await hub.front.until_acked(5)
    finally:
        stop.set()
        await running
    assert await hub.value(HISTORY) == 5
    assert await hub.value(LETTERS) == 0


async def test_a_hub_that_is_told_to_stop_stores_what_has_arrived(hub: Hub) -> None:
    agent_id, stop = await hub.add_agent(), asyncio.Event()
    running = asyncio.create_task(hub.ingest(batch_messages=10).run(stop))
    hub.front.deliver(*(hub.heartbeat(agent_id, seq) for seq in range(45)))
    stop.set()
    async with asyncio.timeout(PATIENCE_S):
        await running
    assert len(hub.front.acked) == await hub.value(HISTORY) == 45


async def test_a_hub_that_is_told_to_stop_without_a_database_ends_and_acks_nothing(
    hub: Hub, fresh_database: Database
) -> None:
    agent_id, stop = await hub.add_agent(), asyncio.Event()
    await asyncio.to_thread(shut, fresh_database)
    stop.set()
    hub.front.deliver(*(hub.heartbeat(agent_id, seq) for seq in range(45)))
    async with asyncio.timeout(PATIENCE_S):
        await hub.ingest(batch_messages=10).run(stop)
    assert hub.front.acked == []
    await asyncio.to_thread(open_again, fresh_database)


async def test_denied_operations_are_told_at_once_and_then_by_the_minute(hub: Hub) -> None:
    agent_id = await hub.add_agent()
    denied = uplink(FrontKind.DENIED, agent_id, hub.clock.now, count=3)
    await hub.take(denied)
    await hub.take(denied, denied)
    hub.clock.advance(minutes=1)
    upkeep = Upkeep(hub.sessions, hub.keyring, hub.work, hub.clock)
    await upkeep.step()
    await upkeep.step()
    counts = [entry["details"]["count"] for entry in await hub.entries("agent.denied")]
    assert counts == [3, 6]


async def test_an_agent_behind_gets_its_fleets_config_again_until_it_has_it(hub: Hub) -> None:
    agent_id = await hub.add_agent()
    envelope = b'{"signed": "config"}'
    async with hub.sessions.begin() as session:
        await session.execute(
            sa.text(
                "INSERT INTO fleet_configs (fleet, epoch, revision, heartbeat_interval_s, envelope,"
                " issued_at, expires_at) VALUES (:fleet, 1, 3, 60, :envelope, :now, :now)"
            ),
            {"fleet": FLEET, "envelope": envelope, "now": hub.clock.now},
        )
    async with hub.sessions() as session:
        hub.work.configs = await FleetConfigs.load(session)
    for seq, has in enumerate([2, 2, 3]):
        await hub.take(hub.heartbeat(agent_id, seq, has={"config": has, "trust": 1}))
    assert hub.front.received(DownKind.CONFIG, agent_id) == [envelope, envelope]
