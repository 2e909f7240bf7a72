"""Heartbeat partitions: there before they are needed, gone when they expire."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from tensorguard.store.engine import store_error
from tensorguard.store.errors import DatabaseUnreachable, PartitionMissing
from tensorguard.store.maintenance import maintain
from tensorguard.store.partitions import drop_expired_partitions
from tensorguard.store.url import driver_url
from tests.postgres import Database, Server

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAY = timedelta(days=1)
INSERT = (
    "INSERT INTO heartbeats (agent_id, received_at, sent_at, boot_count, seq, status, cpu_percent,"
    " memory_percent, disk_percent) VALUES (gen_random_uuid(), %s, now(), 1, 1, 'ok', 1, 1, 1)"
)


@pytest.fixture(scope="session")
def postgres(native_server: Server) -> Server:
    """TimescaleDB does all this itself."""
    return native_server


@pytest.fixture
def owner(fresh_database: Database) -> Iterator[sa.Engine]:
    engine = sa.create_engine(driver_url(fresh_database.owner_url))
    yield engine
    engine.dispose()


def name_of(day: datetime) -> str:
    return f"heartbeats_{day:%Y%m%d_%H%M}"


def with_minutes(days: list[datetime]) -> list[str]:
    """The partitions of these days: of heartbeats, and of their rollups by minute."""
    return [name_of(day) for day in days] + [
        name_of(day).replace("heartbeats", "rollup_1m") for day in days
    ]


def only_heartbeats(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith("heartbeats")]


def partitions(engine: sa.Engine) -> list[str]:
    """The tables named like partitions, attached or not."""
    statement = sa.text(
        "SELECT relname FROM pg_class WHERE relname ~ '^heartbeats_[0-9]' AND relkind = 'r'"
        " ORDER BY relname"
    )
    with engine.connect() as connection:
        return list(connection.execute(statement).scalars())


def insert(database: Database, at: datetime) -> None:
    with psycopg.connect(database.app_url) as connection:
        connection.execute(INSERT, (at,))


def test_yesterday_today_and_two_days_ahead_are_there_after_the_migration(
    owner: sa.Engine,
) -> None:
    assert partitions(owner) == [name_of(TODAY + day * DAY) for day in (-1, 0, 1, 2)]


def test_every_moment_of_the_days_covered_finds_its_partition(
    owner: sa.Engine, fresh_database: Database
) -> None:
    for at in (TODAY - DAY, TODAY, TODAY + DAY, TODAY + 3 * DAY - timedelta(microseconds=1)):
        insert(fresh_database, at)


@pytest.mark.parametrize("days", [-1.001, 3])
def test_a_row_outside_every_partition_is_told_as_what_it_is(
    fresh_database: Database, days: float
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        insert(fresh_database, TODAY + days * DAY)
    told = store_error(caught.value)
    assert isinstance(told, PartitionMissing)
    assert "heartbeats" in told.message
    assert "db maintain" in told.hint


def test_maintenance_goes_ahead_as_time_does(owner: sa.Engine, fresh_database: Database) -> None:
    made = maintain(fresh_database.owner_url, TODAY + DAY + timedelta(hours=5)).made
    assert made == with_minutes([TODAY + 3 * DAY])
    assert maintain(fresh_database.owner_url, TODAY + DAY).made == []
    insert(fresh_database, TODAY + 3 * DAY)


def set_interval(owner: sa.Engine, interval: str) -> None:
    with owner.begin() as connection:
        statement = sa.text("UPDATE platform SET heartbeat_partition = CAST(:i AS interval)")
        connection.execute(statement, {"i": interval})


def test_another_interval_takes_over_where_the_partitions_end(
    owner: sa.Engine, fresh_database: Database
) -> None:
    hour, end = timedelta(hours=1), TODAY + 3 * DAY
    set_interval(owner, "1 hour")
    assert maintain(fresh_database.owner_url, TODAY + 5 * hour).made == []
    made = maintain(fresh_database.owner_url, end - hour / 2).made
    assert only_heartbeats(made) == [name_of(end), name_of(end + hour)]
    set_interval(owner, "1 day")
    made = maintain(fresh_database.owner_url, end + hour / 2).made
    names = [name_of(end + 2 * hour), name_of(end + DAY), name_of(end + 2 * DAY)]
    assert only_heartbeats(made) == names
    for at in (end - hour, end, end + 3 * hour / 2, end + 2 * hour, end + 2 * DAY):
        insert(fresh_database, at)


def test_a_long_partition_stays_until_all_of_it_is_old_whatever_the_interval_is_now(
    owner: sa.Engine,
) -> None:
    set_interval(owner, "1 hour")
    assert drop_expired_partitions(owner, TODAY + 30 * DAY - timedelta(hours=2)) == []
    assert drop_expired_partitions(owner, TODAY + 30 * DAY) == with_minutes([TODAY - DAY])


def test_partitions_are_dropped_when_all_of_them_is_older_than_the_retention(
    owner: sa.Engine, fresh_database: Database
) -> None:
    end_of_yesterday = TODAY + 30 * DAY
    just_before = end_of_yesterday - timedelta(microseconds=1)
    assert drop_expired_partitions(owner, just_before) == []
    assert drop_expired_partitions(owner, end_of_yesterday) == with_minutes([TODAY - DAY])
    assert drop_expired_partitions(owner, end_of_yesterday) == []
    insert(fresh_database, TODAY)


def test_a_partition_that_an_interrupted_run_left_detached_is_dropped(owner: sa.Engine) -> None:
    with owner.begin() as connection:
        name = name_of(TODAY - DAY)
        connection.execute(sa.text(f"ALTER TABLE heartbeats DETACH PARTITION {name}"))
    both = with_minutes([TODAY - DAY, TODAY])
    assert drop_expired_partitions(owner, TODAY + 31 * DAY) == both
    assert name_of(TODAY - DAY) not in partitions(owner)


def test_a_partition_that_is_half_detached_is_finished(
    owner: sa.Engine, fresh_database: Database
) -> None:
    """A reader in a long transaction holds the second half of DETACH … CONCURRENTLY up."""
    name = name_of(TODAY - DAY)
    with psycopg.connect(fresh_database.app_url) as reader:
        reader.execute("SELECT count(*) FROM heartbeats")
        with psycopg.connect(fresh_database.owner_url, autocommit=True) as interrupted:
            interrupted.execute("SET statement_timeout = '500ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                interrupted.execute(f"ALTER TABLE heartbeats DETACH PARTITION {name} CONCURRENTLY")
        reader.rollback()
    dropped = drop_expired_partitions(owner, TODAY + 30 * DAY + timedelta(hours=1))
    assert dropped == with_minutes([TODAY - DAY])
    assert name not in partitions(owner)


def test_ingest_goes_on_while_a_long_read_holds_the_maintenance_up(
    owner: sa.Engine, fresh_database: Database
) -> None:
    with psycopg.connect(fresh_database.app_url) as reader, ThreadPoolExecutor(1) as pool:
        reader.execute("SELECT count(*) FROM heartbeats")
        dropping = pool.submit(maintain, fresh_database.owner_url, TODAY + 30 * DAY)
        wait_for_lock(fresh_database)
        insert(fresh_database, TODAY)
        reader.rollback()
        assert dropping.result(20).dropped == with_minutes([TODAY - DAY])


def wait_for_lock(database: Database) -> None:
    """Wait until the maintenance waits for somebody."""
    statement = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tensorguard-maintenance'"
        " AND wait_event_type = 'Lock' AND datname = current_database()"
    )
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        done = threading.Event()
        for _ in range(1_000):
            row = connection.execute(statement).fetchone()
            if row is not None and row[0]:
                return
            done.wait(0.01)
    pytest.fail("the maintenance waited for nobody")


def test_two_maintainers_at_once_do_the_work_once(
    owner: sa.Engine, fresh_database: Database
) -> None:
    now = TODAY + 31 * DAY + timedelta(hours=1)

    def run(_: int) -> Any:
        return maintain(fresh_database.owner_url, now)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    made = [name for result in results for name in result.made]
    dropped = [name for result in results for name in result.dropped]
    assert len(made) == len(set(made))
    names = [name_of(TODAY + (31 + day) * DAY) for day in (-1, 0, 1, 2)]
    assert sorted(only_heartbeats(made)) == names
    assert sorted(dropped) == with_minutes([TODAY - DAY, TODAY])


def test_partitions_carry_the_parents_indexes_and_none_of_the_services_rights(
    owner: sa.Engine,
) -> None:
    statement = sa.text("SELECT count(*) FROM pg_index WHERE indrelid = CAST(:name AS regclass)")
    right = sa.text("SELECT has_table_privilege('tg_app', CAST(:name AS regclass), 'INSERT')")
    with owner.connect() as connection:
        for name in partitions(owner):
            assert connection.execute(statement, {"name": name}).scalar() == 2
            assert connection.execute(right, {"name": name}).scalar() is False


def test_maintenance_without_a_database_says_so() -> None:
    with pytest.raises(DatabaseUnreachable):
        maintain("postgresql://tg_owner@127.0.0.1:1/nothing")


def test_the_command_says_what_it_did(fresh_database: Database) -> None:
    command = [sys.executable, "-m", "tensorguard.cli", "db", "maintain", "--json"]
    environment = {**os.environ, "TG_DATABASE_OWNER_URL": fresh_database.owner_url}
    with psycopg.connect(fresh_database.owner_url) as connection:
        connection.execute(f"DROP TABLE {name_of(TODAY + 2 * DAY)}")
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True)
    told = json.loads(done.stdout)
    assert (told["made"], told["dropped"]) == ([name_of(TODAY + 2 * DAY)], [])
