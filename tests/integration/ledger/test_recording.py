"""Writing events: with the change or not at all, and never changed afterwards."""

import json

import psycopg
import pytest
from sqlalchemy import func, select

from hub.sequencer import Sequencer
from tensorguard.services.evidence import ledger
from tensorguard.store.engine import SessionMaker
from tensorguard.store.ids import new_id
from tensorguard.store.tables import ledger_entries, ledger_events, ledger_unsequenced
from tests.integration.ledger.builders import AGENT, MakeSequencer, fleet_created, now, reported
from tests.postgres import Database

LEDGER_TABLES = ["ledger_events", "ledger_entries", "ledger_hashes", "ledger_checkpoints"]


async def count(sessions: SessionMaker, table: object) -> int:
    async with sessions() as session:
        found = await session.execute(select(func.count()).select_from(table))  # type: ignore[arg-type] # any table will do
        return int(found.scalar_one())


async def test_a_recorded_event_is_stored_as_its_exact_bytes_and_queued(
    sessions: SessionMaker,
) -> None:
    at = now()
    async with sessions.begin() as session:
        event_id = await ledger.record(session, fleet_created(), now=at)
    async with sessions() as session:
        row = (await session.execute(select(ledger_events))).one()
        queued = (await session.execute(select(ledger_unsequenced))).scalars().all()
    document = json.loads(row.entry)
    assert (row.id, queued) == (event_id, [event_id])
    assert (row.time, row.type, row.fleet, row.outcome) == (
        at,
        "fleet.created",
        "hospital-a",
        "success",
    )
    assert document["actor"] == {"kind": row.actor_kind, "id": row.actor_id}
    assert document["subject"] == {"kind": row.subject_kind, "id": row.subject_id}
    assert document["id"] == str(event_id)


async def test_a_rolled_back_change_leaves_no_entry(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    async with sessions() as session:
        await ledger.record(session, fleet_created("never"), now=now())
        await session.rollback()
    await make_sequencer().step()
    for table in (ledger_events, ledger_unsequenced, ledger_entries):
        assert await count(sessions, table) == 0


async def test_a_batch_is_recorded_in_order_with_the_ids_it_was_given(
    sessions: SessionMaker,
) -> None:
    ids = [new_id() for _ in range(500)]
    events = [reported(number) for number in range(500)]
    async with sessions.begin() as session:
        assert await ledger.record_many(session, events, now=now(), ids=ids) == ids
        assert await ledger.record_many(session, [], now=now()) == []
    async with sessions() as session:
        rows = (await session.execute(select(ledger_events.c.id, ledger_events.c.entry))).all()
    numbers = {row.id: json.loads(row.entry)["details"]["number"] for row in rows}
    assert [numbers[event_id] for event_id in ids] == list(range(500))


async def test_an_id_is_never_recorded_twice(sessions: SessionMaker) -> None:
    event_id = new_id()
    async with sessions.begin() as session:
        await ledger.record(session, fleet_created(), now=now(), id=event_id)
    with pytest.raises(Exception, match="ledger_events_pkey"):
        async with sessions.begin() as session:
            await ledger.record(session, fleet_created(), now=now(), id=event_id)
    assert await count(sessions, ledger_unsequenced) == 1


@pytest.fixture
async def filled(sessions: SessionMaker, make_sequencer: MakeSequencer) -> Sequencer:
    """Every ledger table has rows."""
    async with sessions.begin() as session:
        await ledger.record_many(session, [reported(number) for number in range(4)], now=now())
    sequencer = make_sequencer()
    await sequencer.step()
    async with sessions.begin() as session:
        await ledger.record(session, fleet_created(), now=now())
    return sequencer


FORBIDDEN = [
    statement.format(table)
    for table in LEDGER_TABLES
    for statement in ("DELETE FROM {}", "TRUNCATE {}")
] + [
    "UPDATE ledger_events SET entry = ''",
    "UPDATE ledger_entries SET leaf_index = leaf_index + 10",
    "UPDATE ledger_hashes SET hash = hash",
    "UPDATE ledger_checkpoints SET note = ''",
]


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("role", ["app", "sequencer", "owner", "superuser as replica"])
async def test_nothing_in_the_ledger_is_ever_changed(role: str, fresh_database: Database) -> None:
    urls = {"owner": fresh_database.owner_url, "superuser as replica": fresh_database.superuser_url}
    with psycopg.connect(urls.get(role, fresh_database.app_url), autocommit=True) as connection:
        if role == "sequencer":
            connection.execute("SET ROLE tg_sequencer")
        if role == "superuser as replica":  # switches off every trigger that is not ENABLE ALWAYS
            connection.execute("SET session_replication_role = replica")
        before = [
            connection.execute(f"SELECT * FROM {table}").fetchall() for table in LEDGER_TABLES
        ]
        assert all(before)
        for statement in FORBIDDEN:
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as refusal:
                connection.execute(statement)
            by_grant = str(refusal.value).startswith("permission denied")
            assert by_grant == (role in ("app", "sequencer")), statement
        after = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in LEDGER_TABLES]
        assert before == after


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM ledger_unsequenced",
        "TRUNCATE ledger_unsequenced",
        "UPDATE ledger_unsequenced SET event_id = event_id",
        "INSERT INTO ledger_entries VALUES (99, gen_random_uuid(), sha256(''))",
        "INSERT INTO ledger_hashes VALUES (1, 99, sha256(''))",
        "INSERT INTO ledger_checkpoints VALUES (99, sha256(''), '', now())",
        "ALTER TABLE ledger_events DISABLE TRIGGER ALL",
        "DROP TABLE ledger_events",
    ],
)
async def test_services_can_neither_empty_the_queue_nor_write_the_tree(
    statement: str, fresh_database: Database
) -> None:
    with psycopg.connect(fresh_database.app_url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)
        queued = connection.execute("SELECT count(*) FROM ledger_unsequenced").fetchone()
        assert queued == (1,)


@pytest.mark.usefixtures("filled")
async def test_the_sequencers_role_cannot_invent_events(fresh_database: Database) -> None:
    with psycopg.connect(fresh_database.app_url, autocommit=True) as connection:
        connection.execute("SET ROLE tg_sequencer")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("INSERT INTO ledger_unsequenced VALUES (%s)", (AGENT,))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM users")
