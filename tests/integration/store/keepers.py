"""Databases that keep heartbeats, by engine: what makes rollups there, and what drops and packs."""

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from tensorguard.store.maintenance import maintain
from tensorguard.store.migrate import upgrade
from tensorguard.store.partitions import ensure_partitions
from tensorguard.store.resolutions import Resolution
from tensorguard.store.telemetry import list_telemetry
from tensorguard.store.url import driver_url

STARTS_WITHIN_S = 60
_SERVER = Path(__file__).parents[2] / "timescale" / "server.mjs"


@dataclass(frozen=True)
class Beat:
    """A heartbeat as far as telemetry shows it."""

    agent_id: UUID
    received_at: datetime
    status: str
    cpu_percent: float
    memory_percent: float
    disk_percent: float
    temperature_c: float | None


class Keeper(Protocol):
    """A database, and what time would make its engine do."""

    owner_url: str
    app_url: str

    def cover(self, since: datetime) -> None:
        """Make room for heartbeats from a moment on."""

    def roll_up(self) -> None:
        """Do what makes rollups."""

    def drop_expired(self) -> None:
        """Do what drops what is older than its retention."""


@dataclass
class NativeKeeper:
    """Native partitions, and the maintenance."""

    owner_url: str
    app_url: str

    def cover(self, since: datetime) -> None:
        engine = sa.create_engine(driver_url(self.owner_url))
        with engine.begin() as connection:
            while since < datetime.now(since.tzinfo):
                ensure_partitions(connection, since)
                since += timedelta(days=1)
        engine.dispose()

    def roll_up(self) -> None:
        maintain(self.owner_url)

    def drop_expired(self) -> None:
        maintain(self.owner_url)


@dataclass
class TimescaleKeeper:
    """TimescaleDB; its jobs are run at once instead of when they are due."""

    owner_url: str
    app_url: str

    def cover(self, since: datetime) -> None:
        pass

    def roll_up(self) -> None:
        self.run_jobs("policy_refresh_continuous_aggregate")

    def drop_expired(self) -> None:
        self.run_jobs("policy_retention")

    def compress(self) -> int:
        """Compress what is old enough; return how many chunks are."""
        self.run_jobs("policy_compression")
        with self._connect() as connection:
            row = connection.execute(
                "SELECT count(*) FROM timescaledb_information.chunks"
                " WHERE is_compressed AND hypertable_name = 'heartbeats'"
            ).fetchone()
        assert row is not None
        return int(row[0])

    def run_jobs(self, procedure: str) -> None:
        with self._connect() as connection:
            jobs = connection.execute(
                "SELECT job_id FROM timescaledb_information.jobs"
                " WHERE proc_name = %s AND hypertable_name IS NOT NULL ORDER BY job_id",
                (procedure,),
            ).fetchall()
            assert jobs
            for (job_id,) in jobs:
                connection.execute(f"CALL run_job({job_id})")

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.owner_url, autocommit=True, prepare_threshold=None)


@contextlib.contextmanager
def timescale_in_node() -> Iterator[TimescaleKeeper]:
    """TimescaleDB's own code in a PostgreSQL that runs in Node, migrated."""
    node = Path(sys.executable).with_name("node")
    assert (_SERVER.parent / "node_modules").exists(), "run `make setup` first"
    with tempfile.TemporaryDirectory(prefix="tg-ts-") as folder:
        process = subprocess.Popen(
            [node, _SERVER, f"{folder}/.s.PGSQL.5432"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert _first_line(process) == "ready\n"
            url = f"postgresql://postgres:any@/postgres?host={folder}"
            with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
                for role in ("tg_owner", "tg_app", "tg_sequencer"):
                    connection.execute(f"CREATE ROLE {role}")
            upgrade(url)
            yield TimescaleKeeper(url, url)
        finally:
            process.stdin.close()  # it ends with its standard input
            process.wait(10)
            process.stdout.close()


def _first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line that a process says, or nothing when that takes too long."""
    lines: queue.Queue[str] = queue.Queue()
    stdout = process.stdout
    assert stdout is not None
    threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
    with contextlib.suppress(queue.Empty):
        return lines.get(timeout=STARTS_WITHIN_S)
    return ""


def insert(keeper: Keeper, beats: Sequence[Beat]) -> None:
    """Write heartbeats as the hub's role does."""
    rows = json.dumps([asdict(beat) for beat in beats], default=str)
    with psycopg.connect(keeper.app_url, prepare_threshold=None) as connection:
        connection.execute(
            "INSERT INTO heartbeats (agent_id, received_at, sent_at, boot_count, seq, status,"
            " cpu_percent, memory_percent, disk_percent, temperature_c)"
            " SELECT agent_id, received_at, received_at, 1, 1, status, cpu_percent, memory_percent,"
            " disk_percent, temperature_c FROM json_to_recordset(%s::json) AS one (agent_id uuid,"
            " received_at timestamptz, status text, cpu_percent real, memory_percent real,"
            " disk_percent real, temperature_c real)",
            (rows,),
        )


async def telemetry(
    keeper: Keeper,
    agent_id: UUID,
    resolution: Resolution,
    since: datetime,
    until: datetime,
    step: timedelta,
) -> list[dict[str, Any]]:
    """Ask as the api does."""
    engine = create_async_engine(
        driver_url(keeper.app_url), poolclass=NullPool, connect_args={"prepare_threshold": None}
    )
    async with AsyncSession(engine) as session:
        rows = await list_telemetry(
            session, agent_id, since=since, until=until, step=step, resolution=resolution
        )
    await engine.dispose()
    return [dict(row) for row in rows]
