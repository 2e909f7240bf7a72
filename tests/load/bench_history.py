"""Heartbeats as history: written, rolled up, compressed and read, on each engine.

python tests/load/bench_history.py [agents [batches]]

Native partitions are measured on an embedded PostgreSQL with fsync on. Where TG_TEST_TIMESCALE_URL
names a server with TimescaleDB (a superuser's URL), a hypertable is measured there as well; beside
each a plain table of the same server. Writing is COPY in commits of 5,000 rows by one connection,
interleaved table by table. Reading is one agent's chart of 30 days in 240 points, out of a
heartbeat a minute of every agent.
"""

import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa

from tensorguard.store.embedded.server import EmbeddedPostgres
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.store.migrate import upgrade
from tensorguard.store.partitions import ensure_partitions
from tensorguard.store.resolutions import Resolution
from tensorguard.store.rollups import roll_up
from tensorguard.store.telemetry import list_telemetry
from tensorguard.store.url import driver_url
from tests.integration.store.keepers import (
    Keeper,
    NativeKeeper,
    TimescaleKeeper,
)
from tests.postgres import running_server

BATCH = 5_000
DAYS = 30
TIMES = 7
NOW = datetime.now(UTC).replace(second=0, microsecond=0)
SINCE = NOW - timedelta(days=DAYS)
COLUMNS = (
    "agent_id, received_at, sent_at, boot_count, seq, status, cpu_percent, memory_percent,"
    " disk_percent, temperature_c, package_digest, metrics"
)


def main(agents: int = 24, batches: int = 40) -> None:
    """Print what each engine can do."""
    with embedded() as native:
        tables: dict[str, tuple[Keeper, str]] = {
            "plain table": (native, "plain"),
            "native partitions": (native, "heartbeats"),
        }
        with given_timescale() as timescale:
            if timescale is not None:
                tables["TimescaleDB: plain table"] = (timescale, "plain")
                tables["TimescaleDB: hypertable"] = (timescale, "heartbeats")
            write(tables, batches)
            read("native partitions", native, agents)
            if timescale is not None:
                read("TimescaleDB", timescale, agents)
                compress(timescale)
                asyncio.run(charts(timescale))


@contextlib.contextmanager
def embedded() -> Iterator[NativeKeeper]:
    """An embedded PostgreSQL, migrated."""
    folder = Path(tempfile.mkdtemp(prefix="bench-history-"))
    folder.chmod(0o711)  # as root the server is another user, who has to pass through
    server = EmbeddedPostgres(folder / "pg", durable=True)
    try:
        asyncio.run(server.start())
        upgrade(server.owner_url)
        yield NativeKeeper(server.owner_url, server.app_url)
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)


@contextlib.contextmanager
def given_timescale() -> Iterator[TimescaleKeeper | None]:
    """A database of the server that was given, which is dropped afterwards."""
    url = os.environ.get("TG_TEST_TIMESCALE_URL")
    if url is None:
        yield None
        return
    with running_server(url) as server:
        database = server.clone("tg_bench_history")
        try:
            yield TimescaleKeeper(database.owner_url, database.app_url)
        finally:
            server.drop(database.name)


def connect(keeper: Keeper) -> psycopg.Connection[Any]:
    return psycopg.connect(keeper.owner_url, autocommit=True, prepare_threshold=None)


def write(tables: dict[str, tuple[Keeper, str]], batches: int) -> None:
    """COPY into each table in turn."""
    took: dict[str, list[float]] = {name: [] for name in tables}
    with contextlib.ExitStack() as stack:
        connections = {name: stack.enter_context(connect(tables[name][0])) for name in tables}
        for name, (_, table) in tables.items():
            if table == "plain":
                connections[name].execute("CREATE TABLE plain (LIKE heartbeats)")
                connections[name].execute("CREATE INDEX ON plain (agent_id, received_at DESC)")
        for batch in range(batches + 2):
            rows = copy_rows(batch)
            for name, (_, table) in tables.items():
                began = time.perf_counter()
                with (
                    connections[name].cursor() as cursor,
                    cursor.copy(f"COPY {table} ({COLUMNS}) FROM STDIN") as stream,
                ):
                    stream.write(rows)
                if batch >= 2:
                    took[name].append(time.perf_counter() - began)
    print(f"{'COPY, commits of 5,000 rows':28}{'rows/s':>12}{'median ms':>12}")
    for name, seconds in took.items():
        median = statistics.median(seconds)
        print(f"{name:28}{BATCH / median:12,.0f}{median * 1000:12.1f}")


def copy_rows(batch: int) -> bytes:
    """Rows of 5,000 agents as they come now, in COPY's text."""
    at = datetime.now(UTC).isoformat()
    digest = "\\\\x" + "ab" * 32
    lines = [
        f"{UUID(int=(number * 7919) << 64 | number)}\t{at}\t{at}\t3\t{batch}\tok\t"
        f"{(number * 37 + batch) % 100000 / 1000}\t61.8\t40.25\t51.0\t{digest}\t"
        f'{{"inferences": {batch * 17 + number}, "latency_ms": 12.25}}\n'
        for number in range(BATCH)
    ]
    return "".join(lines).encode()


def read(name: str, keeper: Keeper, agents: int) -> None:
    """Fill 30 days, roll them up and draw an agent's chart."""
    rows = fill(keeper, agents)
    size = size_bytes(keeper)
    print(f"\n{name}: {rows:,} heartbeats, {size / rows:.0f} bytes each with their indexes")
    began = time.perf_counter()
    if isinstance(keeper, TimescaleKeeper):
        with connect(keeper) as connection:
            for rollup in ("1m", "1h", "1d"):
                connection.execute(
                    f"CALL refresh_continuous_aggregate('heartbeats_{rollup}', NULL, %s,"
                    """ options => '{"buckets_per_batch": 60}')""",
                    (NOW,),
                )
    else:
        engine = sa.create_engine(driver_url(keeper.owner_url))
        while not roll_up(engine).finished:
            pass
        engine.dispose()
    took = time.perf_counter() - began
    print(f"rolled up in {took:.1f} s: {rows / took:,.0f} heartbeats/s")
    asyncio.run(charts(keeper))


def fill(keeper: Keeper, agents: int) -> int:
    """Insert a heartbeat a minute of each agent; what is in the table already goes."""
    if isinstance(keeper, NativeKeeper):
        engine = sa.create_engine(driver_url(keeper.owner_url))
        with engine.begin() as connection:
            for day in range(DAYS + 1):
                ensure_partitions(connection, NOW - timedelta(days=day))
            connection.exec_driver_sql("ALTER TABLE heartbeats DISABLE TRIGGER late_heartbeat")
            statement = sa.text("UPDATE rollup_watermarks SET watermark = :since")
            since = Resolution.DAY.floor(SINCE)
            connection.execute(statement, {"since": since})
            ensure_partitions(connection, NOW)  # the rollups' as well, from then on
        engine.dispose()
    with connect(keeper) as connection:
        connection.execute("TRUNCATE heartbeats")
        connection.execute(
            f"INSERT INTO heartbeats ({COLUMNS})"
            " SELECT CAST(lpad(to_hex(agent), 32, '0') AS uuid), at, at, 1,"
            " extract(epoch FROM at) / 60, 'ok',"
            " round(CAST(30 + 25 * sin(agent + extract(epoch FROM at) / 9000)"
            "  + 8 * random() AS numeric), 3),"
            " round(CAST(60 + 3 * random() AS numeric), 3), 40 + mod(agent, 20),"
            " round(CAST(50 + 4 * random() AS numeric), 1), %s, jsonb_build_object('inferences',"
            "  CAST(1e6 * random() AS integer), 'latency_ms',"
            "  round(CAST(20 * random() AS numeric), 2))"
            " FROM generate_series(%s, %s, INTERVAL '1 minute') AS at,"
            " generate_series(1, %s) AS agent",
            (b"\xab" * 32, SINCE, NOW - timedelta(minutes=1), agents),
        )
        connection.execute("ANALYZE")
        row = connection.execute("SELECT count(*) FROM heartbeats").fetchone()
    assert row is not None
    return int(row[0])


def size_bytes(keeper: Keeper) -> int:
    """What the heartbeats take."""
    if isinstance(keeper, TimescaleKeeper):
        statement = "SELECT hypertable_size('heartbeats')"
    else:
        statement = (
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits"
            " WHERE inhparent = 'heartbeats'::regclass"
        )
    with connect(keeper) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    return int(row[0])


async def charts(keeper: Keeper) -> None:
    """Ask for the 30 days of one agent after another, in each resolution."""
    print(f"{'chart of 30 days from':28}{'median ms':>12}{'points':>12}")
    engine = create_engine(keeper.app_url, service="bench", pool_size=1)
    async with session_maker(engine)() as session:
        for resolution in Resolution:
            since, until = resolution.floor(SINCE), resolution.ceil(NOW)
            step = timedelta(days=DAYS) / 240
            if resolution is not Resolution.RAW:
                step = -(-step // resolution.bucket) * resolution.bucket
            seconds = []
            for agent in range(1, TIMES + 1):
                began = time.perf_counter()
                points = await list_telemetry(
                    session,
                    UUID(int=agent),
                    since=since,
                    until=until,
                    step=step,
                    resolution=resolution,
                )
                seconds.append(time.perf_counter() - began)
                if sum(point["heartbeats"] for point in points) != DAYS * 24 * 60:
                    raise SystemExit(f"{resolution} does not show what was written")
            print(f"  {resolution:26}{statistics.median(seconds) * 1000:12.1f}{len(points):12}")
    await engine.dispose()


def compress(keeper: TimescaleKeeper) -> None:
    """Put everything into the columnstore."""
    before = size_bytes(keeper)
    began = time.perf_counter()
    with connect(keeper) as connection:
        connection.execute("SELECT compress_chunk(c) FROM show_chunks('heartbeats') AS c")
    took = time.perf_counter() - began
    after = size_bytes(keeper)
    print(f"\ncompressed in {took:.1f} s: {before / after:.1f} times smaller")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
