"""Sinks: entries a second that each kind of sink is sent, beside what its two ends manage alone.

python tests/load/bench_sinks.py [entries]

An embedded PostgreSQL, the hub's exporter, and a far end in a process of its own that reads
everything and answers: over TLS on loopback for those of the network. Raw limits beside it: reading
the same entries in the same batches, and posting the same bytes by the same HTTP client.
"""

import asyncio
import dataclasses
import gzip
import json
import logging
import multiprocessing
import random
import shutil
import ssl
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hub.sequencer import Sequencer
from hub.sink_export import ExportWork, SinkExport
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import SYSTEM, Actor
from tensorguard.services.evidence.events import AgentReported
from tensorguard.services.sinks.export_reading import read_waiting
from tensorguard.services.sinks.sink_changes import create_sink
from tensorguard.services.sinks.sink_clients import Outside
from tensorguard.services.sinks.sink_configs import parse_config
from tensorguard.services.sinks.sinks import Sink, get_sink
from tensorguard.siem.address_guard import AddressGuard, parse_networks
from tensorguard.siem.http_client import HttpClient, tls_context
from tensorguard.siem.item import Item
from tensorguard.siem.lines import StandardOutput
from tensorguard.siem.ocsf import to_item
from tensorguard.siem.webhook import new_secret
from tensorguard.store.embedded.server import EmbeddedPostgres
from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tensorguard.store.ids import new_id
from tensorguard.store.migrate import upgrade
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.sinks.far_end import Authority

TRUST_DOMAIN = "bench.example"
TARGET = 2_000
BATCH = 1_000
_SIGNER = Ed25519PrivateKey.generate()
TOKEN = "0123456789abcdef0123456789abcdef"


def main(entries: int = 20_000) -> None:
    """Print the rate of each kind of sink beside the raw ones."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    folder = Path(tempfile.mkdtemp(prefix="tg-bench-"))
    folder.chmod(0o711)  # as root the server is another user, who has to pass through
    server = EmbeddedPostgres(folder / "pg")
    ours, theirs = multiprocessing.Pipe()
    authority = Authority(folder)
    far = multiprocessing.get_context("spawn").Process(
        target=serve, args=(authority.files_for("localhost"), theirs), daemon=True
    )
    try:
        far.start()
        asyncio.run(server.start())
        upgrade(server.owner_url)
        https, syslog = ours.recv()
        bench = Bench(server.app_url, folder, authority.pem, https, syslog)
        asyncio.run(bench.measure(entries))
    finally:
        far.terminate()
        far.join()
        asyncio.run(server.stop())
        shutil.rmtree(folder)


class Bench:
    """One ledger, and a sink of each kind that is sent all of it."""

    def __init__(self, url: str, folder: Path, ca_pem: str, https: int, syslog: int) -> None:
        self._engine = create_engine(url, service="bench", pool_size=8)
        self._sessions: SessionMaker = session_maker(self._engine)
        self._kek = LocalKeyProvider.open_or_create(folder / KEK_FILE)
        self._ca_pem = ca_pem
        self._https = f"https://localhost:{https}"
        self._syslog = syslog
        guard = AddressGuard(parse_networks("127.0.0.0/8,::1/128"))
        self._nowhere = Path("/dev/null").open("wb")  # noqa: SIM115  open as long as this
        self._outside = Outside(
            guard=guard,
            data_dir=folder,
            trust_domain=TRUST_DOMAIN,
            output=StandardOutput(self._nowhere.fileno()),
        )

    async def measure(self, entries: int) -> None:
        await self._fill(entries)
        remote = {"ca_pem": self._ca_pem, "timeout_s": 60}
        kinds: list[tuple[str, str | None, dict[str, Any]]] = [
            ("splunk", TOKEN, {"url": self._https, **remote}),
            ("datadog", TOKEN, {"url": self._https, **remote}),
            ("webhook", new_secret(), {"url": self._https, "batch_items": BATCH, **remote}),
            ("syslog", None, {"host": "localhost", "port": self._syslog, **remote}),
            ("file", None, {"file_name": "bench.jsonl"}),
            ("stdout", None, {}),
        ]
        sinks = [await self._sink(kind, secret, config) for kind, secret, config in kinds]
        items = await self._read_raw(sinks[0], entries)
        await self._post_raw(items)
        for sink in sinks:
            export = SinkExport(sink.id, self._work())
            began = time.monotonic()
            while (now := await self._get(sink)).next_index < entries:
                if now.failures:
                    raise SystemExit(f"{sink.kind}: {now.trouble_reason}")
                await export.step()
            rate = entries / (time.monotonic() - began)
            await export.close()
            print(f"sink {sink.kind:<24}{rate:>10,.0f} entries/s  (target {TARGET:,})", flush=True)
        await self._engine.dispose()

    async def _fill(self, entries: int) -> None:
        actor = Actor("agent", str(new_id()))
        for start in range(0, entries, 2_000):
            events = [
                AgentReported(
                    by=actor,
                    fleet="hospital-a",
                    agent_id=new_id(),
                    reported="model.activated",
                    log_id=new_id(),
                    number=number,
                    at=utc_now(),
                    data={"digest": "ab" * 32},
                )
                for number in range(start, min(entries, start + 2_000))
            ]
            async with self._sessions.begin() as session:
                await ledger.record_many(session, events, now=utc_now())
        sequencer = Sequencer(
            self._sessions,
            trust_domain=TRUST_DOMAIN,
            signers=lambda: [_SIGNER],
            clock=utc_now,
            random=random.Random(1),
            checkpoint_every=timedelta(0),
        )
        while await sequencer.step():
            pass

    async def _sink(self, kind: str, secret: str | None, config: dict[str, Any]) -> Sink:
        async with self._sessions.begin() as session:
            return await create_sink(
                session,
                self._kek,
                name=kind,
                config=parse_config({"kind": kind, **config}),
                secret=secret,
                from_beginning=True,
                by=SYSTEM,
                now=utc_now(),
            )

    async def _get(self, sink: Sink) -> Sink:
        async with self._sessions() as session:
            return await get_sink(session, sink.id)

    async def _read_raw(self, sink: Sink, entries: int) -> list[Item]:
        """Read everything as the exporter does, and give it its shape."""
        items: list[Item] = []
        read_s = shape_s = 0.0
        while len(items) < entries:
            began = time.monotonic()
            at = dataclasses.replace(sink, next_index=len(items))
            async with self._sessions() as session:
                waiting = await read_waiting(
                    session, self._kek, at, max_items=BATCH, max_bytes=10**7, now=utc_now()
                )
            read = time.monotonic()
            items += [to_item(one, trust_domain=TRUST_DOMAIN) for one in waiting.entries]
            read_s, shape_s = read_s + read - began, shape_s + time.monotonic() - read
        print(f"raw: entries read            {entries / read_s:>10,.0f} entries/s")
        print(f"raw: entries made OCSF       {entries / shape_s:>10,.0f} entries/s")
        mean = sum(len(item.document) for item in items) / len(items)
        print(f"     one is {mean:,.0f} bytes as OCSF")
        return items

    async def _post_raw(self, items: list[Item]) -> None:
        """Post the same bytes, made before, by the same client."""
        client = HttpClient(self._outside.guard, tls_context(self._ca_pem), timeout_s=60)
        size = 400
        bodies = [
            b"".join(item.document for item in items[start : start + size])
            for start in range(0, len(items), size)
        ]
        began = time.monotonic()
        for body in bodies:
            await client.post(f"{self._https}/raw", {}, body)
        rate = len(items) / (time.monotonic() - began)
        print(f"raw: HTTPS, {size} a request    {rate:>10,.0f} entries/s")
        await client.close()

    def _work(self) -> ExportWork:
        return ExportWork(
            sessions=self._sessions,
            kek=self._kek,
            outside=self._outside,
            clock=utc_now,
            random=random.SystemRandom(),
        )


def serve(files: tuple[Path, Path], to: Connection) -> None:
    """The far end: reads everything, and says what each kind wants to hear."""
    asyncio.run(_serve(files, to))


async def _serve(files: tuple[Path, Path], to: Connection) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*files)
    servers = [
        await asyncio.start_server(serving, "localhost", 0, ssl=tls)
        for serving in (_answer_https, _read_all)
    ]
    to.send([server.sockets[0].getsockname()[1] for server in servers])
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _answer_https(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await _head(reader):
        lines = head.decode().lower().split("\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith("content-length:"))
        body = await reader.readexactly(length)
        if "content-encoding: gzip" in lines:
            json.loads(gzip.decompress(body))
        is_datadog = "/api/v2/logs" in lines[0]
        status, said = (202, b"{}") if is_datadog else (200, b'{"text":"Success","code":0}')
        writer.write(f"HTTP/1.1 {status} OK\r\nContent-Length: {len(said)}\r\n\r\n".encode() + said)
        await writer.drain()
    writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def _read_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(262_144):
        pass
    writer.close()


def utc_now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
