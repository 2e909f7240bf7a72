"""Committed heartbeats a second from a NATS stream: one hub, two hubs, and one fed from memory.

python tests/load/bench_nats.py [rounds]

A real server, an embedded PostgreSQL with fsync on, each hub a process of its own. 5,000 agents'
heartbeats lie in the stream before a hub starts, some rounds of them, published as agents publish:
the figures are what hubs can do, from their first batch to the last commit, and not what a
publisher can. `memory` is the same hub, whose source is a list.
"""

import asyncio
import json
import logging
import shutil
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from hub.batch import Batch
from hub.downlink import Downlink
from hub.ingest import Ingest
from hub.nats.consumers import list_consumers
from hub.nats.source import JetStreamUplink
from hub.nats.stream import StreamSettings, ensure_stream
from hub.uplink import Uplink
from hub.work import Fence, Outcome, Work
from tensorguard.protocol.subjects import STREAM, to_subject
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.embedded.server import EmbeddedPostgres
from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tensorguard.store.migrate import upgrade
from tensorguard.vault.local import LocalKeyProvider
from tests.integration.broker.certificates import Platform
from tests.integration.streaming.hubs import NatsServer
from tests.load.bench_heartbeats import add_agents, check, now, prepare, uplinks

BATCH = 500
PARTITIONS = 16
TARGET_PER_S, TARGET_RATIO = 8_000, 0.5


@dataclass(frozen=True)
class Place:
    """What a hub's process is told."""

    database: str
    folder: str
    nats: str

    @property
    def platform(self) -> Path:
        return Path(self.folder)


class TimedWork(Work):
    """Notes when the first batch came and when the last was committed."""

    first = last = before_s = cpu_s = 0.0
    stored = 0

    async def store(self, batch: Batch, fence: Fence | None = None) -> Outcome:
        if not self.first:
            self.first, self.before_s = time.monotonic(), time.process_time()
        outcome = await super().store(batch, fence)
        self.stored += outcome.heartbeats
        self.last, self.cpu_s = time.monotonic(), time.process_time() - self.before_s
        return outcome


class ListSource:
    """An `UplinkSource` that has everything in memory from the start."""

    leads, share = True, 1.0

    def __init__(self, waiting: list[Uplink]) -> None:
        self.connected = asyncio.Event()
        self.used_up = asyncio.Event()
        self._waiting = waiting
        self._at = 0

    async def receive(self, most: int, wait_s: float) -> list[Uplink]:
        taken = self._waiting[self._at : self._at + most]
        self._at += len(taken)
        if not taken:
            self.used_up.set()
            await asyncio.sleep(wait_s)
        return taken

    def finish(self) -> None:
        pass

    async def fence(self, session: AsyncSession, uplinks: Sequence[Uplink]) -> None:
        pass

    def ack(self, uplinks: Sequence[Uplink]) -> None:
        pass

    def publish(self, downlinks: Sequence[Downlink]) -> int:
        return 0


def main(rounds: int = 12) -> dict[str, float]:
    """Print and give heartbeats a second of each way."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # each TLS connection that ends is told
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    folder = Path(tempfile.mkdtemp(prefix="bench-nats-"))
    folder.chmod(0o711)  # as root the server is another user, who has to pass through
    server = EmbeddedPostgres(folder / "pg", durable=True)
    try:
        asyncio.run(server.start())
        upgrade(server.owner_url)
        figures = asyncio.run(measure(server, folder, rounds))
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)
    rates = {way: one.per_s for way, one in figures.items()}
    print(f"{'':10}{'heartbeats/s':>15}{'of memory':>12}{'CPU of the hubs, µs each':>27}")
    for way, one in figures.items():
        ratio = one.per_s / rates["memory"]
        print(f"{way:10}{one.per_s:15,.0f}{ratio:12.2f}{one.cpu_us:27.0f}")
    enough = rates["one hub"] >= TARGET_PER_S
    near = rates["one hub"] >= TARGET_RATIO * rates["memory"]
    print(
        f"one hub: {TARGET_PER_S:,}/s {'reached' if enough else 'NOT reached'},"
        f" {TARGET_RATIO:g} of memory {'reached' if near else 'NOT reached'}"
    )
    return rates


@dataclass(frozen=True)
class Figure:
    """What hubs did together, and what each heartbeat cost them."""

    per_s: float
    cpu_us: float

    @classmethod
    def of(cls, said: Sequence[dict[str, float]], heartbeats: int) -> "Figure":
        took_s = max(one["last"] for one in said) - min(one["first"] for one in said)
        return cls(heartbeats / took_s, sum(one["cpu_s"] for one in said) * 1e6 / heartbeats)


async def measure(server: EmbeddedPostgres, folder: Path, rounds: int) -> dict[str, Figure]:
    """Return what each way reached."""
    engine = create_engine(server.app_url, service="bench", pool_size=1)
    await prepare(engine, folder)
    await engine.dispose()
    nats_folder = folder / "nats"
    nats_folder.mkdir()
    platform = Platform(nats_folder)
    node = NatsServer(nats_folder, platform)
    await node.start()
    place = Place(server.app_url, str(folder), node.url)
    (nats_folder / "hub.json").write_text(
        json.dumps([str(platform.hub.certificate_path), str(platform.hub.key_path)])
    )
    figures: dict[str, Figure] = {}
    try:
        async with await psycopg.AsyncConnection.connect(server.app_url) as connection:
            for way, hubs in (("memory", 1), ("one hub", 1), ("two hubs", 2)):
                agents = await add_agents(connection)
                messages = [one for number in range(rounds) for one in uplinks(agents, number)]
                said = (
                    await from_memory(place, messages)
                    if way == "memory"
                    else await from_stream(place, node, messages, hubs)
                )
                figures[way] = Figure.of(said, len(messages))
                await check(connection, agents, len(messages))
                await connection.rollback()
    finally:
        await node.kill()
    return figures


async def from_memory(place: Place, messages: Sequence[Uplink]) -> list[dict[str, float]]:
    """Let a hub store messages that it has."""
    path = place.platform / "messages.json"
    path.write_text(json.dumps([[one.topic, one.payload.decode()] for one in messages]))
    return await hubs_say(place, 1, path)


async def from_stream(
    place: Place, node: NatsServer, messages: Sequence[Uplink], hubs: int
) -> list[dict[str, float]]:
    """Publish messages, and let hubs store them."""
    publisher, reader = await node.connect("publisher"), await node.connect("hub")
    stream = reader.jetstream()
    await ensure_stream(stream, StreamSettings(PARTITIONS))
    await stream.purge_stream(STREAM)
    for number, one in enumerate(messages):
        await publisher.publish(to_subject(one.topic), one.payload)
        if number % 5_000 == 0:
            await publisher.flush()
    await publisher.flush()

    async def all_read() -> None:
        left = len(messages)
        while left:
            await asyncio.sleep(0.2)
            found = await list_consumers(stream)
            left = sum(consumers[-1].unread for consumers in found.values()) if found else left

    said = await hubs_say(place, hubs, None, until=all_read)
    await publisher.close()
    await reader.close()
    return said


async def hubs_say(
    place: Place,
    hubs: int,
    messages: Path | None,
    *,
    until: Callable[[], Awaitable[None]] | None = None,
) -> list[dict[str, float]]:
    """Run hubs in processes of their own until all is stored; return what each has done."""
    arguments = [json.dumps([place.database, place.folder, place.nats]), str(messages or "")]
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "hub", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(hubs)
    ]
    async with asyncio.timeout(120):
        for process in processes:
            assert process.stdout is not None
            await process.stdout.readline()  # it is ready
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        if until is not None:
            await until()
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        said = [(await process.communicate())[0] for process in processes]
    return [json.loads(one.splitlines()[-1]) for one in said]


async def hub(place: Place, messages: Path | None) -> None:
    """Be a hub: say that it is ready, wait for a line, work until stdin ends or all is done."""
    engine = create_engine(place.database, service="bench-hub", pool_size=4)
    sessions = session_maker(engine)
    kek = LocalKeyProvider.open(place.platform / "kek.json")
    async with sessions() as session:
        work = TimedWork(sessions, await Keyring.load(session, kek), kek, now)
        await session.execute(sa.text("SELECT 1"))
    stop = asyncio.Event()
    given = json.loads(await asyncio.to_thread(messages.read_text)) if messages else []
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async with source(place, given, sessions) as uplinks:
        ingest = asyncio.create_task(
            Ingest(uplinks, work, batch_messages=BATCH, flush_after_s=0.2).run(stop)
        )
        if given:
            await uplinks.used_up.wait()
        else:
            await asyncio.to_thread(sys.stdin.read)
        stop.set()
        await ingest
    await engine.dispose()
    said = {"first": work.first, "last": work.last, "stored": work.stored, "cpu_s": work.cpu_s}
    print(json.dumps(said))


@asynccontextmanager
async def source(
    place: Place, given: list[tuple[str, str]], sessions: SessionMaker
) -> AsyncIterator[Any]:
    """What a hub reads from."""
    if given:
        yield ListSource([Uplink(topic, payload.encode(), now()) for topic, payload in given])
        return
    folder = place.platform / "nats"
    certificate, key = json.loads((folder / "hub.json").read_text())
    tls = ssl.create_default_context(cafile=folder / "ca.pem")
    tls.load_cert_chain(certificate, key)
    async with JetStreamUplink(
        urls=[place.nats],
        tls=tls,
        sessions=sessions,
        stream=StreamSettings(PARTITIONS),
        intake_limit=5_000,
        downlink_limit=20_000,
    ) as uplinks:
        yield uplinks


if __name__ == "__main__":
    if sys.argv[1:2] == ["hub"]:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
        asyncio.run(
            hub(Place(*json.loads(sys.argv[2])), Path(sys.argv[3]) if sys.argv[3] else None)
        )
    else:
        main(*map(int, sys.argv[1:]))
