"""The ledger: entries a second from staged to signed, proofs, exports and their verification.

python tests/load/bench_ledger.py [entries]

A million entries, unless told, take about two minutes; `1` leaves it at a hundred thousand.
An embedded PostgreSQL with fsync on. Raw limits beside it: SHA-256 of the same bytes (two hashes an
entry, leaf and node) and COPY of the same rows into a plain table.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from uuid import UUID

import psycopg
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import tensorguard.ledger.verify
from hub.sequencer import Sequencer
from tensorguard.ledger.checkpoint import VerifierKey, ledger_origin
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, AgentReported
from tensorguard.services.evidence.exporting import ExportRequest, export_compressed
from tensorguard.services.evidence.tree_queries import find_latest_checkpoint, get_inclusion_proof
from tensorguard.store.embedded.server import EmbeddedPostgres
from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tensorguard.store.migrate import upgrade

AGENT = UUID("01900000-0000-7000-8000-00000000000a")
BATCH = 500
PROOFS = 300
BACKLOG = 100_000
TRUST_DOMAIN = "bench.example"
SIGNER = Ed25519PrivateKey.generate()


def main(entries: int = 1_000_000) -> None:
    """Print each figure beside its raw limit."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    folder = Path(tempfile.mkdtemp(prefix="tg-bench-"))
    folder.chmod(0o711)  # as root the server is another user, who has to pass through
    server = EmbeddedPostgres(folder / "pg")
    try:
        asyncio.run(server.start())
        upgrade(server.owner_url)
        asyncio.run(measure(server.app_url, server.owner_url, folder, entries))
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)


async def measure(app_url: str, owner_url: str, folder: Path, entries: int) -> None:
    engine = create_engine(app_url, service="bench", pool_size=8)
    sessions = session_maker(engine)
    sequencer = Sequencer(
        sessions,
        trust_domain=TRUST_DOMAIN,
        signers=lambda: [SIGNER],
        clock=now,
        random=Random(1),
    )
    async with running(sequencer):
        await latency(sessions)
    grow(owner_url, BACKLOG)
    began = time.monotonic()
    async with running(sequencer):
        size = await signed(sessions, 5_000 + BACKLOG)
        rate = BACKLOG / (time.monotonic() - began)
        print(f"staged → sequenced → checkpoint  {rate:>10,.0f} entries/s  (target 10,000)")
        copied, hashed = raw_limits(owner_url)
        print(f"  raw: COPY of the same rows       {copied:>10,.0f} rows/s")
        print(f"  raw: SHA-256, two an entry       {hashed:>10,.0f} entries/s")
        await prove(sessions, 10_000)
        await prove(sessions, size)
        if entries > size:
            grow(owner_url, entries - size)
            size = await signed(sessions, entries)
            await prove(sessions, size)
    await export_and_verify(sessions, folder, size)
    await engine.dispose()


async def latency(sessions: SessionMaker) -> None:
    """From commit to checkpoint at 1,000 entries a second, for five seconds."""
    took: list[float] = []
    waiting: list[tuple[int, float]] = []
    size, began = 0, time.monotonic()
    while size < 5_000 or waiting:
        if size < 5_000 and time.monotonic() - began >= size / 1_000:
            await stage(sessions, 50)
            size += 50
            waiting.append((size, time.monotonic()))
        async with sessions() as session:
            last = await find_latest_checkpoint(session, 1)
        reached = 0 if last is None else last.tree_size
        at = time.monotonic()
        took += [at - since for wanted, since in waiting if wanted <= reached]
        waiting = [one for one in waiting if one[0] > reached]
        await asyncio.sleep(0.005)
    p99 = statistics.quantiles(took, n=100)[98]
    print(f"insert → checkpoint at 1,000/s   {p99:>10.2f} s p99  (target 2)")


async def prove(sessions: SessionMaker, size: int) -> None:
    random, took = Random(2), []
    async with sessions() as session:
        await get_inclusion_proof(session, 1, 0, size)
        for _ in range(PROOFS):
            began = time.perf_counter()
            await get_inclusion_proof(session, 1, random.randrange(size), size)
            took.append((time.perf_counter() - began) * 1000)
    p50, p99 = statistics.median(took), statistics.quantiles(took, n=100)[98]
    text = f"inclusion proof of {size:,}"
    print(f"{text:32} {p99:>10.1f} ms p99, {p50:.1f} p50  (target 10)")


async def export_and_verify(sessions: SessionMaker, folder: Path, size: int) -> None:
    path, length = folder / "export.ndjson.zst", 0
    began = time.monotonic()
    async with sessions() as session:
        with path.open("wb") as file:
            async for chunk in export_compressed(session, ExportRequest()):
                length += file.write(chunk)
    rate = size / (time.monotonic() - began)
    print(f"export, compressed               {rate:>10,.0f} entries/s, {length / size:.0f} B each")
    key = str(VerifierKey(ledger_origin(TRUST_DOMAIN), SIGNER.public_key()))
    verifier = Path(tensorguard.ledger.verify.__file__)
    began = time.monotonic()
    command = [sys.executable, "-I", str(verifier), str(path), "--key", key, "--json"]
    said, memory_mib = await asyncio.to_thread(run_measured, command)
    rate = size / (time.monotonic() - began)
    if not json.loads(said)["ok"]:
        raise SystemExit(f"the export does not verify: {said[:300]}")
    print(f"verify                           {rate:>10,.0f} entries/s  (target 100,000)")
    print(f"  in memory                      {memory_mib:>10,.0f} MiB")


def run_measured(command: list[str]) -> tuple[str, float]:
    """Run a program to its end; what it printed, and the most memory that it had, in MiB."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    return said, used.ru_maxrss / 1024


def raw_limits(owner_url: str) -> tuple[float, float]:
    """COPY into a plain table, and SHA-256, of the entries that are there; both a second."""
    with psycopg.connect(owner_url) as connection:
        rows = connection.execute("SELECT * FROM ledger_events LIMIT 20000").fetchall()
        connection.execute("CREATE TEMP TABLE plain (LIKE ledger_events)")
        began = time.monotonic()
        with connection.cursor().copy("COPY plain FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        copied = len(rows) / (time.monotonic() - began)
    entries = [bytes(row[1]) for row in rows]
    began, sha256 = time.monotonic(), hashlib.sha256
    for entry in entries:
        sha256(b"\x01" + sha256(b"\x00" + entry).digest() * 2).digest()
    return copied, len(entries) / (time.monotonic() - began)


def grow(owner_url: str, entries: int) -> None:
    """Stage many entries quickly, by the database itself."""
    with psycopg.connect(owner_url) as connection:
        connection.execute(
            """
            WITH one AS (SELECT * FROM ledger_events LIMIT 1), event AS (
                INSERT INTO ledger_events
                SELECT uuidv7(), convert_to(replace(replace(convert_from(one.entry, 'UTF8'),
                           '"number":0', '"number":' || n), subject_id, gen_random_uuid()::text),
                           'UTF8'), time, type, actor_kind, actor_id, subject_kind, subject_id,
                       fleet, outcome
                FROM one, generate_series(1, %s) AS n RETURNING id
            ) INSERT INTO ledger_unsequenced SELECT id FROM event
            """,
            (entries,),
        )


async def stage(sessions: SessionMaker, count: int) -> None:
    for first in range(0, count, BATCH):
        async with sessions.begin() as session:
            numbers = range(first, min(first + BATCH, count))
            await ledger.record_many(session, [reported(one) for one in numbers], now=now())


async def signed(sessions: SessionMaker, size: int) -> int:
    while True:
        async with sessions() as session:
            last = await find_latest_checkpoint(session, 1)
        if last is not None and last.tree_size >= size:
            return last.tree_size
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(sequencer: Sequencer) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(sequencer.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


def reported(number: int) -> AgentReported:
    return AgentReported(
        by=Actor("agent", str(AGENT)),
        fleet="hospital-a",
        agent_id=AGENT,
        reported="model.activated",
        log_id=AGENT,
        number=number,
        at=datetime.now(UTC) - timedelta(seconds=1),
        data={"digest": "ab" * 32},
    )


def now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
