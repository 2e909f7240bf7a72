"""Committed heartbeats a second beside raw SQL of the same rows, all interleaved in one run.

python tests/load/bench_heartbeats.py [batches]

Batches of 500 heartbeats, every one of another agent, on an embedded PostgreSQL with fsync on and
one connection each. `hub` decodes the messages and stores them by Work.store, `work` only stores,
`upsert+copy` is the raw UPDATE by unnest and COPY of the same rows with psycopg's own adapters,
`copy` the raw COPY alone; every batch is one commit.
"""

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import sqlalchemy as sa
import structlog
from psycopg.types.json import Jsonb
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.batch import Batch, sort
from hub.heartbeats import COPY_HISTORY, STATE_COLUMNS, history_row, state_row
from hub.uplink import Uplink
from hub.work import Work
from tensorguard.protocol import topics
from tensorguard.protocol.topics import UpKind
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.platform import bootstrap
from tensorguard.store.embedded.server import EmbeddedPostgres
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.store.migrate import upgrade
from tensorguard.store.tables import fleets
from tensorguard.vault.local import LocalKeyProvider

BATCH = 500
AGENTS = 5_000
FLEET = "hospital-a"
START = datetime.now(UTC)


def main(batches: int = 60) -> dict[str, float]:
    """Print and give heartbeats a second of each way, and the hub's ratios to the raw ones."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    folder = Path(tempfile.mkdtemp(prefix="bench-heartbeats-"))
    folder.chmod(0o711)  # as root the server is another user, who has to pass through
    server = EmbeddedPostgres(folder / "pg", durable=True)
    try:
        asyncio.run(server.start())
        upgrade(server.owner_url)
        seconds = asyncio.run(measure(server, folder, batches))
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)
    figures = {way: BATCH / statistics.median(took) for way, took in seconds.items()}
    heads = ("heartbeats/s", "median ms", "best ms", "of upsert+copy", "of copy")
    print("".join([" " * 11, *(f"{head:>15}" for head in heads)]))
    for way, rate in figures.items():
        of_upsert, of_copy = rate / figures["upsert+copy"], rate / figures["copy"]
        median_ms, best_ms = statistics.median(seconds[way]) * 1000, min(seconds[way]) * 1000
        print(
            f"{way:11}{rate:15,.0f}{median_ms:15.1f}{best_ms:15.1f}{of_upsert:15.2f}{of_copy:15.2f}"
        )
    return figures


async def measure(server: EmbeddedPostgres, folder: Path, batches: int) -> dict[str, list[float]]:
    """Return the seconds of each batch, by way."""
    engine = create_engine(server.app_url, service="bench", pool_size=1)
    async with await psycopg.AsyncConnection.connect(server.app_url) as connection:
        ways = [*await hub_ways(engine, folder), *raw_ways(connection)]
        agents = {way.name: await add_agents(connection) for way in ways}
        took: dict[str, list[float]] = {way.name: [] for way in ways}
        warm_up = AGENTS // BATCH
        for number in range(warm_up + batches):
            first = number * BATCH % AGENTS
            for way in ways:
                prepared = way.prepare(uplinks(agents[way.name][first : first + BATCH], number))
                started = time.perf_counter()
                await way.store(prepared)
                if number >= warm_up:
                    took[way.name].append(time.perf_counter() - started)
        for way in ways:
            await check(connection, agents[way.name], BATCH * (warm_up + batches))
    await engine.dispose()
    return took


@dataclass(frozen=True)
class Way:
    """How a batch is stored; only `store` is timed."""

    name: str
    prepare: Callable[[Sequence[Uplink]], Any]
    store: Callable[[Any], Awaitable[None]]


async def hub_ways(engine: AsyncEngine, folder: Path) -> list[Way]:
    """The hub's own code, with and without decoding."""
    work = await prepare(engine, folder)

    async def decode_and_store(batch: Sequence[Uplink]) -> None:
        await work.store(sort(batch))

    async def store(batch: Batch) -> None:
        await work.store(batch)

    return [Way("hub", list, decode_and_store), Way("work", sort, store)]


async def prepare(engine: AsyncEngine, folder: Path) -> Work:
    """Initialise the platform, with one fleet; return what stores a hub's batches."""
    sessions, kek = session_maker(engine), LocalKeyProvider.open_or_create(folder / "kek.json", now)
    async with sessions.begin() as session:
        await bootstrap(
            session,
            kek=kek,
            trust_domain="example.org",
            root_dir=folder / "root",
            now=START,
            hash_with=lambda password: "not-a-hash",
        )
        await session.execute(
            sa.insert(fleets).values(slug=FLEET, name="A", created_at=START, created_by="bench")
        )
    async with sessions() as session:
        return Work(sessions, await Keyring.load(session, kek), kek, now)


def raw_ways(connection: psycopg.AsyncConnection[Any]) -> list[Way]:
    """The same rows by plain SQL and psycopg's adapters."""
    names = [name for name, _ in STATE_COLUMNS]
    changed = ", ".join(f"{name} = new.{name}" for name in names if name != "agent_id")
    upsert = (
        f"UPDATE agent_state SET {changed}"
        f" FROM unnest({', '.join(f'%s::{type_}[]' for _, type_ in STATE_COLUMNS)})"
        f" AS new ({', '.join(names)}) WHERE agent_state.agent_id = new.agent_id"
        " AND (new.boot_count, new.seq) > (agent_state.boot_count, agent_state.seq)"
    )

    def columns(batch: Sequence[Uplink]) -> tuple[list[Any], list[Any]]:
        beats = sort(batch).heartbeats
        rows = [state_row(one, {}) for one in beats]
        columns = [[_adapted(row[name], type_) for row in rows] for name, type_ in STATE_COLUMNS]
        return columns, [history_row(one) for one in beats]

    async def copy(history: list[Any]) -> None:
        async with connection.cursor() as cursor, cursor.copy(COPY_HISTORY) as stream:
            for row in history:
                await stream.write_row(row)

    async def upsert_and_copy(prepared: tuple[list[Any], list[Any]]) -> None:
        await connection.execute(upsert, prepared[0])
        await copy(prepared[1])
        await connection.commit()

    async def copy_alone(prepared: tuple[list[Any], list[Any]]) -> None:
        await copy(prepared[1])
        await connection.commit()

    return [Way("upsert+copy", columns, upsert_and_copy), Way("copy", columns, copy_alone)]


def _adapted(value: Any, type_: str) -> Any:
    return Jsonb(value) if type_ == "jsonb" and value is not None else value


def now() -> datetime:
    return datetime.now(UTC)


def uplinks(agents: Sequence[UUID], number: int) -> list[Uplink]:
    """One heartbeat of each agent, with all that a real one carries."""
    body = {
        "boot_id": str(uuid4()),
        "boot_count": 3,
        "seq": number,
        "sent_at": now().isoformat(),
        "cpu_percent": 12.5 + number % 50,
        "memory_percent": 61.8,
        "disk_percent": 40.25,
        "temperature_c": 51.0,
        "package": {"name": "magika", "version": "1.0.0", "digest": "ab" * 32},
        "agent_version": "0.1.0",
        "metrics": {"inferences": number, "latency_ms": 12.25},
        "has": {"desired": {"epoch": 1, "revision": 4}, "config": 2, "trust": 1},
        "ledger": {"size": 1000 + number, "root": "cd" * 32},
    }
    payload = json.dumps(body).encode()
    return [Uplink(topics.up(FLEET, one, UpKind.HEARTBEAT), payload, now()) for one in agents]


async def add_agents(connection: psycopg.AsyncConnection[Any]) -> list[UUID]:
    """Insert agents as enrollment leaves them, in random order of their ids."""
    ids = [uuid4() for _ in range(AGENTS)]
    statements = (
        "INSERT INTO agents (id, fleet, name, tags, facts, status, enrolled_by,"
        " enrolled_spki_sha256, encryption_key, created_at)"
        f" SELECT id, '{FLEET}', id::text, '{{}}', '{{}}', 'active', 'token',"
        " sha256(id::text::bytea), sha256(('k' || id::text)::bytea), now()"
        " FROM unnest(%s::uuid[]) AS new (id)",
        "INSERT INTO agent_state (agent_id) SELECT * FROM unnest(%s::uuid[])",
        "INSERT INTO agent_status (agent_id, presence, presence_since)"
        " SELECT id, 'never', now() FROM unnest(%s::uuid[]) AS new (id)",
    )
    for statement in statements:
        await connection.execute(statement, (ids,))
    await connection.commit()
    return ids


async def check(
    connection: psycopg.AsyncConnection[Any], agents: Sequence[UUID], expected: int
) -> None:
    """A way that stored less was not faster but wrong."""
    count = "SELECT count(*) FROM heartbeats WHERE agent_id = ANY(%s)"
    row = await (await connection.execute(count, (list(agents),))).fetchone()
    if row is None or row[0] != expected:
        raise SystemExit(f"{row} heartbeats were stored instead of {expected}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
