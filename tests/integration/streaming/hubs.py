"""Hubs on a real NATS server and a real database, and somebody who publishes as agents do."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext

from broker.nats.configuration import Node, render
from broker.nats.keys import CalloutKeys
from hub.ingest import Ingest
from hub.nats.source import JetStreamUplink
from hub.nats.stream import StreamSettings
from hub.work import Work
from tensorguard.protocol import topics
from tensorguard.protocol.subjects import STREAM, UP, to_subject
from tensorguard.protocol.topics import UpKind
from tests.integration.broker.certificates import TRUST_DOMAIN, Platform
from tests.integration.hub.builders import FLEET, Hub
from tests.integration.nats.server import PATIENCE_S, free_ports, program, write_server_files
from tests.unit.protocol.builders import GOOD

PARTITIONS = 4
LEASE = timedelta(seconds=1.5)


class NatsServer:
    """One server that can be killed and started again on its ports, with what it has stored.

    Besides services it lets one more in, by certificate: `publisher`, in the account of agents.
    What it publishes goes the way of what agents publish.
    """

    def __init__(self, folder: Path, platform: Platform) -> None:
        self.folder = folder
        self.platform = platform
        port, mqtt_port = free_ports(2)
        keys = CalloutKeys.generate()
        self.node = Node(
            name="node-1",
            listen=f"127.0.0.1:{port}",
            mqtt=f"127.0.0.1:{mqtt_port}",
            trust_domain=TRUST_DOMAIN,
            issuer=keys.issuer,
            xkey=keys.xkey,
            files=write_server_files(folder, platform.authority),
        )
        self.url = f"tls://localhost:{port}"
        self.log_path = folder / "nats.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._write(folder / "nats.conf")

    def _write(self, path: Path) -> None:
        """Write our configuration, with one more user and that is all."""
        publisher = f"spiffe://{TRUST_DOMAIN}/service/publisher"
        before, _, rest = render(self.node).partition("accounts: ")
        accounts, length = json.JSONDecoder().raw_decode(rest)
        before_authorization, _, last = rest[length:].partition("authorization: ")
        authorization, length = json.JSONDecoder().raw_decode(last)
        rights = {"publish": UP, "subscribe": ["tg.>", "_INBOX.>"]}
        accounts["AGENTS"]["users"] = [{"user": publisher, "permissions": rights}]
        authorization["auth_callout"]["auth_users"].append(publisher)
        path.write_text(
            f"{before}accounts: {json.dumps(accounts)}{before_authorization}"
            f"authorization: {json.dumps(authorization)}{last[length:]}"
        )

    async def start(self) -> None:
        before = self.log_path.read_text().count("Server is ready") if self._started else 0
        process = self._process = await asyncio.to_thread(
            subprocess.Popen, [program(), "-c", self.folder / "nats.conf", "-l", self.log_path]
        )
        async with asyncio.timeout(PATIENCE_S):
            while not self._is_ready(before):
                assert process.poll() is None, self.log_path.read_text()
                await asyncio.sleep(0.02)

    def _is_ready(self, before: int) -> bool:
        return self._started and self.log_path.read_text().count("Server is ready") > before

    @property
    def _started(self) -> bool:
        return self.log_path.exists()

    async def kill(self) -> None:
        """End it as a power cut would end the process."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, PATIENCE_S)

    async def connect(self, service: str, **options: Any) -> Client:
        """Connect as a service."""
        return await nats.connect(
            self.url,
            tls=self.platform.service(service).client_context(self.platform.ca_path),
            tls_handshake_first=True,
            connect_timeout=PATIENCE_S,
            **options,
        )


@dataclass
class RunningHub:
    """One of several hubs: its source and its ingest, without the other loops."""

    source: JetStreamUplink
    stop: asyncio.Event
    task: "asyncio.Task[None]"

    async def end(self) -> None:
        """End as after SIGTERM."""
        self.stop.set()
        await self.task
        await self.source.__aexit__(None, None, None)

    async def kill(self) -> None:
        """Stop at once wherever it is: nothing is acked, told or released any more."""
        connection = self.source._task
        assert connection is not None
        self.task.cancel()
        connection.cancel()
        await asyncio.gather(self.task, connection, return_exceptions=True)


@dataclass
class Site:
    """A server, a database, any number of hubs, and one who publishes as agents do."""

    server: NatsServer
    hub: Hub
    settings: StreamSettings = field(default_factory=lambda: StreamSettings(PARTITIONS))
    hubs: list[RunningHub] = field(default_factory=list)
    publisher: Client | None = None

    def source(self, **changes: Any) -> JetStreamUplink:
        platform = self.server.platform
        known: dict[str, Any] = {
            "urls": [self.server.url],
            "tls": platform.hub.client_context(platform.ca_path),
            "sessions": self.hub.sessions,
            "stream": self.settings,
            "intake_limit": 1_000,
            "downlink_limit": 1_000,
            "lease": LEASE,
        }
        return JetStreamUplink(**(known | changes))

    async def start_hub(self, *, work: Work | None = None, **changes: Any) -> RunningHub:
        """Start a hub and wait until it reads."""
        source = await self.source(**changes).__aenter__()
        ingest = Ingest(source, work or self.hub.work, batch_messages=100, flush_after_s=0.05)
        stop = asyncio.Event()
        hub = RunningHub(source, stop, asyncio.create_task(ingest.run(stop)))
        self.hubs.append(hub)
        async with asyncio.timeout(PATIENCE_S):
            await source.connected.wait()
        return hub

    async def publish(self, agent_id: UUID, kind: UpKind, *payloads: bytes) -> None:
        """Publish messages of an agent and wait until the server has them."""
        if self.publisher is None or self.publisher.is_closed:
            self.publisher = await self.server.connect("publisher", allow_reconnect=False)
        subject = to_subject(topics.up(FLEET, agent_id, kind))
        for payload in payloads:
            await self.publisher.publish(subject, payload)
        await self.publisher.flush()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[JetStreamContext]:
        """JetStream, with a hub's rights."""
        client = await self.server.connect("hub")
        yield client.jetstream()
        await client.close()

    async def until_kept(self, messages: int) -> None:
        """Wait until the stream has so many; a PUBACK, or a flush, does not."""
        async with self.stream() as stream:

            async def kept() -> bool:
                return (await stream.stream_info(STREAM)).state.messages >= messages

            await self.until(kept)

    async def until(self, condition: Callable[[], Awaitable[bool]], within_s: float = 20) -> None:
        """Wait until something is so; what is in a database or a server does not call us."""
        async with asyncio.timeout(within_s):
            while not await condition():  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.03)

    async def until_stored(self, events: int, within_s: float = 20) -> None:
        """Wait until the ledger has so many events of agents; more would be an error at once."""

        async def stored() -> bool:
            count: int = await self.hub.value(
                "SELECT count(*) FROM ledger_events WHERE type LIKE 'agent.reported.%'"
            )
            assert count <= events
            return count == events

        await self.until(stored, within_s)

    async def until_share(self, hub: RunningHub, partitions: int) -> None:
        """Wait until a hub reads exactly so many partitions."""

        async def reads() -> bool:
            return len(hub.source.partitions) == partitions

        await self.until(reads)


def event(log_id: UUID, number: int, **changes: Any) -> bytes:
    """An event of an agent, well formed but for the changes."""
    body = dict(GOOD[UpKind.EVENT]) | {"log_id": str(log_id), "number": number, "oldest": 1}
    return json.dumps(body | changes).encode()


def heartbeat(seq: int, **changes: Any) -> bytes:
    """One of an agent that has not seen a checkpoint yet."""
    good = dict(GOOD[UpKind.HEARTBEAT]) | {"seq": seq, "ledger": None}
    return json.dumps(good | changes).encode()


@asynccontextmanager
async def running_site(folder: Path, hub: Hub, **settings: Any) -> AsyncIterator[Site]:
    """A server and no hub yet; what was started ends with it."""
    server = NatsServer(folder, Platform(folder, hub.keyring.ca))
    await server.start()
    site = Site(server, hub, StreamSettings(**({"partitions": PARTITIONS} | settings)))
    try:
        yield site
    finally:
        for running in site.hubs:
            await running.kill()
        if site.publisher is not None:
            await site.publisher.close()
        await server.kill()
