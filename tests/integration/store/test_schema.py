"""The schema: what the migrations make is what the program expects, and who may do what with it."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tensorguard.store.engine import check_schema, create_engine
from tensorguard.store.errors import DatabaseUnreachable, SchemaOutdated
from tensorguard.store.migrate import upgrade
from tensorguard.store.tables import metadata
from tensorguard.store.url import driver_url
from tests.postgres import Database

APPEND_ONLY = ["ledger_events", "ledger_entries", "ledger_hashes", "ledger_checkpoints"]
Connection = psycopg.Connection[Any]


@pytest.fixture
def app(database: Database) -> Iterator[Connection]:
    """The services' role; what it does is rolled back."""
    with psycopg.connect(database.app_url) as connection:
        yield connection
        connection.rollback()


def may(connection: Connection, table: str, right: str, role: str = "tg_app") -> bool:
    rows = connection.execute("SELECT has_table_privilege(%s, %s, %s)", (role, table, right))
    return bool(rows.fetchone()[0])  # type: ignore[index] # a function gives one row


def test_the_migrations_make_exactly_the_tables_that_the_program_knows(database: Database) -> None:
    def known(_object: Any, name: str | None, type_: str, *_: Any) -> bool:
        # Partitions come and go, rollups are their engine's; alembic's own table is alembic's.
        foreign = (name or "").startswith(("heartbeats_", "rollup_", "alembic_"))
        return not (type_ == "table" and foreign)

    engine = sa.create_engine(driver_url(database.owner_url))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "compare_server_default": True, "include_object": known},
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_migrating_again_changes_nothing(database: Database) -> None:
    statement = "SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    with psycopg.connect(database.owner_url) as connection:
        before = connection.execute(f"{statement} ORDER BY oid").fetchall()
    upgrade(database.owner_url)
    with psycopg.connect(database.owner_url) as connection:
        assert connection.execute(f"{statement} ORDER BY oid").fetchall() == before


async def test_the_services_start_on_this_schema_and_on_no_other(fresh_database: Database) -> None:
    engine = create_engine(fresh_database.app_url, service="test")
    await check_schema(engine)
    with psycopg.connect(fresh_database.owner_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaOutdated, match="9999"):
        await check_schema(engine)
    await engine.dispose()


def test_a_database_that_is_not_there_is_said_to_be_unreachable() -> None:
    with pytest.raises(DatabaseUnreachable):
        upgrade("postgresql://tg_owner@127.0.0.1:1/nothing")


def test_the_services_role_owns_nothing_and_may_create_nothing(
    app: Connection, database: Database
) -> None:
    owned = "SELECT count(*) FROM pg_class WHERE relowner = 'tg_app'::regrole"
    assert app.execute(owned).fetchone() == (0,)
    functions = "SELECT count(*) FROM pg_proc WHERE proowner = 'tg_app'::regrole"
    assert app.execute(functions).fetchone() == (0,)
    with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
        app.execute("CREATE TABLE mine (id int)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
        app.execute("DROP TABLE heartbeats")
    with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
        app.execute("ALTER TABLE ledger_events DISABLE TRIGGER append_only")
    superuser = "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = %s"
    for role in ("tg_app", "tg_owner", "tg_sequencer"):
        assert app.execute(superuser, (role,)).fetchone() == (False,)


@pytest.mark.parametrize("table", [*APPEND_ONLY, "revocations", "trust_bundles", "heartbeats"])
@pytest.mark.parametrize("right", ["UPDATE", "DELETE", "TRUNCATE"])
def test_the_services_role_cannot_change_what_is_written_for_good(
    app: Connection, table: str, right: str
) -> None:
    assert not may(app, table, right)
    column = first_column(app, table)
    statement = {
        "UPDATE": f"UPDATE {table} SET {column} = {column}",
        "DELETE": f"DELETE FROM {table}",
        "TRUNCATE": f"TRUNCATE {table}",
    }[right]
    with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
        app.execute(statement)


def first_column(connection: Connection, table: str) -> str:
    statement = (
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 LIMIT 1"
    )
    row = connection.execute(statement, (table,)).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_not_even_the_owner_changes_the_ledger(
    database: Database, table: str, statement: str
) -> None:
    with psycopg.connect(database.owner_url) as owner:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            owner.execute(statement.format(table))
        owner.rollback()


def test_the_services_role_reads_the_trees_tables_and_only_the_sequencer_fills_them(
    app: Connection,
) -> None:
    for table in ("ledger_entries", "ledger_hashes", "ledger_checkpoints"):
        assert may(app, table, "SELECT")
        assert not may(app, table, "INSERT")
        assert may(app, table, "INSERT", role="tg_sequencer")
        assert not may(app, table, "UPDATE, DELETE, TRUNCATE", role="tg_sequencer")
    assert not may(app, "ledger_unsequenced", "DELETE")
    assert not may(app, "ledger_events", "INSERT", role="tg_sequencer")


def test_the_public_may_nothing(app: Connection) -> None:
    granted = app.execute(
        "SELECT table_name FROM information_schema.role_table_grants"
        " WHERE grantee = 'PUBLIC' AND table_schema = 'public'"
    )
    assert granted.fetchall() == []


def test_the_services_role_cannot_move_the_heartbeats_settings(app: Connection) -> None:
    app.execute("UPDATE platform SET trust_domain = 'x'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
        app.execute("UPDATE platform SET engine = 'timescale'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
        app.execute("UPDATE platform SET heartbeat_retention = '1 second'")


async def test_every_connection_of_a_service_has_limits(database: Database) -> None:
    expected = {
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "1min",
        "timezone": "UTC",
        "application_name": "tensorguard-test",
    }
    engine = create_engine(database.app_url, service="test")
    async with engine.connect() as connection:
        for name, value in expected.items():
            assert (await connection.execute(sa.text(f"SHOW {name}"))).scalar_one() == value
    await engine.dispose()


def test_no_index_follows_what_every_heartbeat_changes(database: Database) -> None:
    with psycopg.connect(database.app_url) as connection:
        indexes = connection.execute(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index"
            " WHERE indrelid = 'agent_state'::regclass"
        ).fetchall()
        options = connection.execute(
            "SELECT reloptions FROM pg_class WHERE oid = 'agent_state'::regclass"
        ).fetchone()
    assert [definition.partition("USING ")[2] for (definition,) in indexes] == ["btree (agent_id)"]
    assert options == (["fillfactor=50"],)
