"""Rollups on native partitions: what the maintenance does when it is interrupted or held up."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa

from tensorguard.store.errors import HistorySettingsInvalid
from tensorguard.store.maintenance import configure, maintain
from tensorguard.store.partitions import drop_expired_partitions
from tensorguard.store.resolutions import Resolution
from tensorguard.store.rollups import roll_up
from tensorguard.store.url import driver_url
from tests.integration.store.keepers import Beat, NativeKeeper, insert
from tests.postgres import Database, Server

NOW = datetime.now(UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture(scope="session")
def postgres(native_server: Server) -> Server:
    """TimescaleDB does all this itself."""
    return native_server


@pytest.fixture
def keeper(fresh_database: Database) -> NativeKeeper:
    return NativeKeeper(fresh_database.owner_url, fresh_database.app_url)


@pytest.fixture
def owner(fresh_database: Database) -> Iterator[sa.Engine]:
    engine = sa.create_engine(driver_url(fresh_database.owner_url))
    yield engine
    engine.dispose()


def hasty_clock() -> Callable[[], float]:
    """A clock that goes on by a second each time it is looked at."""
    ticks = count()
    return lambda: float(next(ticks))


def beat(agent_id: UUID, at: datetime) -> Beat:
    return Beat(agent_id, at, "ok", 1.0, 2.0, 3.0, None)


def stored(engine: sa.Engine, rollup: str) -> tuple[int, int]:
    """How many rows a rollup has, and how many heartbeats they count."""
    statement = sa.text(f"SELECT count(*), coalesce(sum(heartbeats), 0) FROM rollup_{rollup}")
    with engine.connect() as connection:
        rows, heartbeats = connection.execute(statement).one()
    return int(rows), int(heartbeats)


def watermark(engine: sa.Engine, rollup: str) -> datetime:
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT rolled_up(:rollup)"), {"rollup": rollup})
        at: datetime = found.scalar_one()
    return at


def test_a_run_that_is_out_of_time_is_gone_on_with_and_counts_nothing_twice(
    keeper: NativeKeeper, owner: sa.Engine
) -> None:
    beats = [beat(uuid4(), NOW - DAY + n * 5 * MINUTE) for n in range(200)]
    insert(keeper, beats)
    runs = 0
    while True:
        done = roll_up(owner, budget=timedelta(seconds=40), monotonic=hasty_clock())
        runs += 1
        if done.finished:
            break
        assert runs < 100
    assert runs > 3
    assert stored(owner, "1m") == (200, 200)
    assert watermark(owner, "1m") > NOW - 12 * MINUTE
    assert watermark(owner, "1h") == Resolution.HOUR.floor(watermark(owner, "1m"))
    assert watermark(owner, "1d") == Resolution.DAY.floor(watermark(owner, "1h"))


def test_several_at_once_do_the_work_once(keeper: NativeKeeper, owner: sa.Engine) -> None:
    insert(keeper, [beat(uuid4(), NOW - DAY + n * 5 * MINUTE) for n in range(200)])
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: maintain(keeper.owner_url), range(4)))
    assert sum(done.rolled_up.rows.get(Resolution.MINUTE, 0) for done in results) >= 200
    assert stored(owner, "1m") == (200, 200)


def test_nothing_is_rolled_up_past_a_transaction_that_may_have_heartbeats(
    keeper: NativeKeeper, owner: sa.Engine
) -> None:
    roll_up(owner)
    before = watermark(owner, "1m")
    with owner.begin() as connection:
        back = sa.text("UPDATE rollup_watermarks SET watermark = :at WHERE rollup = '1m'")
        connection.execute(back, {"at": before - HOUR})
        connection.execute(sa.text("UPDATE rollup_mark SET settled_until = 'epoch', at = 'epoch'"))
    with psycopg.connect(keeper.app_url) as writer:
        writer.execute("UPDATE platform SET trust_domain = trust_domain")  # it has a number now
        roll_up(owner, monotonic=hasty_clock())
        assert watermark(owner, "1m") == before - HOUR
    roll_up(owner)
    assert watermark(owner, "1m") >= before


def test_only_what_comes_late_is_noted(keeper: NativeKeeper, owner: sa.Engine) -> None:
    agent_id = uuid4()
    late = [beat(agent_id, NOW - HOUR + n * timedelta(seconds=1)) for n in range(120)]
    now = datetime.now(UTC)  # that of the module may be minutes ago
    insert(keeper, [beat(agent_id, now - n * MINUTE) for n in range(9)])
    statement = sa.text("SELECT count(*) FROM rollup_late")
    with owner.connect() as connection:
        assert connection.execute(statement).scalar_one() == 0
    insert(keeper, late)
    with owner.connect() as connection:
        assert connection.execute(statement).scalar_one() in (2, 3)
    done = roll_up(owner)
    assert done.again in (2, 3)
    with owner.connect() as connection:
        assert connection.execute(statement).scalar_one() == 0
    assert stored(owner, "1m")[1] == 120


def test_a_partition_is_not_dropped_before_it_is_rolled_up(
    keeper: NativeKeeper, owner: sa.Engine
) -> None:
    yesterday = Resolution.DAY.floor(NOW) - HOUR
    name = f"heartbeats_{Resolution.DAY.floor(yesterday):%Y%m%d_%H%M}"
    insert(keeper, [beat(uuid4(), yesterday)])
    assert name not in drop_expired_partitions(owner, NOW + 31 * DAY)
    maintain(keeper.owner_url)
    if watermark(owner, "1m") < Resolution.DAY.floor(NOW):
        pytest.skip("it is just after midnight")
    assert name in drop_expired_partitions(owner, NOW + 31 * DAY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heartbeat_retention": DAY}, "heartbeats are kept for 4 days"),
        ({"late_heartbeats": 29 * DAY + HOUR}, "late heartbeats are rolled up for"),
        ({"rollup_1m_retention": 4 * DAY}, "rollups of 1m are kept for 5 days"),
        ({"late_heartbeats": MINUTE}, "for an hour at least"),
        ({"heartbeat_partition": MINUTE}, "ten minutes to seven days"),
        ({"heartbeat_partition": 7 * HOUR}, "divide a day"),
        ({"columnstore_after": MINUTE}, "after an hour"),
    ],
)
def test_settings_that_would_lose_data_are_refused(
    keeper: NativeKeeper, changes: dict[str, timedelta], message: str
) -> None:
    before = configure(keeper.owner_url)
    with pytest.raises(HistorySettingsInvalid, match=message):
        configure(keeper.owner_url, **changes)
    assert configure(keeper.owner_url) == before


def settings_command(keeper: NativeKeeper, *arguments: str, **environment: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "tensorguard.cli", "db", "settings", "--json", *arguments],
        env={**os.environ, "TG_DATABASE_OWNER_URL": keeper.owner_url, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_settings_are_changed_by_options_and_by_the_environment(keeper: NativeKeeper) -> None:
    done = settings_command(keeper, "--heartbeat-retention", "7d", TG_HEARTBEAT_PARTITION="1h")
    assert done.returncode == 0, done.stderr
    assert '"heartbeat_retention_s": 604800.0' in done.stdout
    settings = configure(keeper.owner_url)
    assert (settings.heartbeat_retention, settings.heartbeat_partition) == (7 * DAY, HOUR)
    refused = settings_command(keeper, "--heartbeat-retention", "1d")
    assert refused.returncode != 0
    assert "history-settings-invalid" in refused.stderr + refused.stdout
