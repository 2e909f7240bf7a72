"""Messages/s, TLS connects/s and memory of the embedded front beside bare amqtt, in one run.

python tests/load/bench_broker.py [seconds a measurement]

Each engine serves in a process of its own, with mTLS, on uvloop; all clients are in this one. They
write bytes that were prepared before, so that as little as possible of their time is measured.
"""

import asyncio
import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
import uvloop
from amqtt.broker import Broker
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from uuid6 import uuid7

from broker.denyset import DenySet, Revocation
from broker.embedded import packets
from broker.embedded.front import Front, FrontSetup
from broker.embedded.limits import Limits
from tensorguard.pki.identity import AgentIdentity, Identity, ServiceIdentity
from tensorguard.pki.issuer import CertificateAuthority, certificate_pem
from tensorguard.protocol import topics
from tensorguard.services.certificates.certificates import ServiceCertificate

TRUST_DOMAIN = "bench.example"
FLEET = "bench"
SUBSCRIBED = (2, 500, 1000)
ENGINES = ("front", "amqtt")
PUBLISHERS = 20
# Messages that one publisher has in flight at most.
WINDOW = 20
CONNECTS_AT_ONCE = 16
PAYLOAD = b"x" * 400  # about what a heartbeat has


@dataclass
class Figures:
    """What one engine did with so many subscribed agents."""

    engine: str
    agents: int
    messages_per_s: float = 0.0
    # None where so few agents are connected before they can be timed.
    connects_per_s: float | None = None
    server_cpu_ms_per_connect: float | None = None
    kib_per_connection: float | None = None

    def __str__(self) -> str:
        line = f"{self.engine:6} {self.agents:5} agents {self.messages_per_s:8.0f} messages/s"
        if self.connects_per_s is None:
            return line
        return (
            f"{line} {self.connects_per_s:6.0f} TLS connects/s"
            f" {self.server_cpu_ms_per_connect:6.2f} ms CPU a connect"
            f" {self.kib_per_connection:6.1f} KiB a connection"
        )


def main(seconds: float = 3.0) -> list[Figures]:
    """Print and give every figure."""
    with tempfile.TemporaryDirectory(prefix="bench-broker-") as name:
        site = Site.create(Path(name))
        found = []
        # Side by side, so that whatever else the machine does concerns both.
        for agents in SUBSCRIBED:
            for engine in ENGINES:
                with serving(engine, site.directory) as (port, pid):
                    figures = Figures(engine, agents)
                    uvloop.run(Load(site, port, pid, figures).run(seconds))
                found.append(figures)
                print(figures, flush=True)
    return found


@dataclass
class Site:
    """A platform CA, and clients' TLS contexts made before anything is measured."""

    directory: Path
    authority: CertificateAuthority
    agents: list[tuple[AgentIdentity, ssl.SSLContext]] = field(default_factory=list)

    @classmethod
    def create(cls, directory: Path, agents: int = max(SUBSCRIBED)) -> "Site":
        now = datetime.now(UTC)
        site = cls(directory, CertificateAuthority.create(TRUST_DOMAIN, now - timedelta(days=1)))
        (directory / "ca.pem").write_text(site.authority.certificate_pem)
        (directory / "ca.key").write_bytes(site.authority.private_key_der())
        site.write_server_files()
        for _ in range(agents):
            identity = AgentIdentity(TRUST_DOMAIN, FLEET, uuid7())
            site.agents.append((identity, site.context(identity)))
        return site

    def write_server_files(self) -> None:
        """Write what bare amqtt reads."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.authority.issue_service(
            key.public_key(),
            ServiceIdentity(TRUST_DOMAIN, "broker"),
            datetime.now(UTC),
            dns_names=["localhost"],
        )
        (self.directory / "server.pem").write_text(certificate_pem(certificate))
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.directory / "server.key").write_bytes(pem)

    def context(self, identity: Identity) -> ssl.SSLContext:
        """A client's context with a certificate of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        if isinstance(identity, AgentIdentity):
            certificate = self.authority.issue_agent(key.public_key(), identity, now)
        else:
            certificate = self.authority.issue_service(key.public_key(), identity, now)
        path = self.directory / "client.pem"
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(pem + certificate_pem(certificate).encode())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.directory / "ca.pem")
        context.load_cert_chain(path)
        return context


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Load:
    """The clients of one measurement."""

    site: Site
    port: int
    pid: int
    figures: Figures
    received: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def run(self, seconds: float) -> None:
        """Connect everybody, then publish for so long."""
        hub = ServiceIdentity(TRUST_DOMAIN, "hub")
        hub_streams = await self.connect("hub-1", self.site.context(hub), topics.HUB_FILTERS)
        self.tasks.append(asyncio.create_task(self.consume(*hub_streams)))
        agents = self.site.agents[: self.figures.agents]
        before, cpu_before = resident_kib(self.pid), cpu_seconds(self.pid)
        started = time.perf_counter()
        streams = await self.connect_all(agents)
        took = time.perf_counter() - started
        if len(agents) > PUBLISHERS:
            self.figures.connects_per_s = len(agents) / took
            cpu_s = cpu_seconds(self.pid) - cpu_before
            self.figures.server_cpu_ms_per_connect = 1000 * cpu_s / len(agents)
            self.figures.kib_per_connection = (resident_kib(self.pid) - before) / len(agents)
        for (identity, _), (reader, writer) in list(zip(agents, streams, strict=True))[:PUBLISHERS]:
            self.tasks.append(asyncio.create_task(self.publish(identity, reader, writer)))
        await asyncio.sleep(seconds / 3)
        counted, started = self.received, time.perf_counter()
        await asyncio.sleep(seconds)
        rate = (self.received - counted) / (time.perf_counter() - started)
        self.figures.messages_per_s = rate
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for _, writer in [*streams, hub_streams]:
            writer.transport.abort()

    async def connect_all(
        self, agents: list[tuple[AgentIdentity, ssl.SSLContext]]
    ) -> list[Streams]:
        gate = asyncio.Semaphore(CONNECTS_AT_ONCE)

        async def one(identity: AgentIdentity, context: ssl.SSLContext) -> Streams:
            async with gate:
                filters = topics.subscribable(identity.fleet, identity.agent_id)
                return await self.connect(identity.common_name, context, filters)

        return await asyncio.gather(*(one(*agent) for agent in agents))

    async def connect(
        self, client_id: str, context: ssl.SSLContext, filters: tuple[str, ...]
    ) -> Streams:
        """TLS, CONNECT and SUBSCRIBE; a hub at QoS 1, an agent at QoS 0."""
        qos = b"\x01" if client_id.startswith("hub") else b"\x00"
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname="localhost"
        )
        writer.write(packet(0x10, b"\x00\x04MQTT\x04\x02\x02\x58" + text(client_id)))
        assert await reader.readexactly(4) == packets.connack(0)
        wishes = b"".join(text(wish) + qos for wish in filters)
        writer.write(packet(0x82, b"\x00\x01" + wishes))
        suback = await reader.readexactly(4 + len(filters))
        assert suback[4:] == qos * len(filters), suback
        return reader, writer

    async def publish(
        self, identity: AgentIdentity, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Keep a window of QoS 1 messages in flight; every PUBACK has four bytes."""
        topic = topics.up(identity.fleet, identity.agent_id, topics.UpKind.HEARTBEAT)
        burst = b"".join(packets.publish(topic, PAYLOAD, number + 1) for number in range(WINDOW))
        while True:
            writer.write(burst)
            await reader.readexactly(4 * WINDOW)

    async def consume(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be the hub: read, count, ack."""
        buffer = bytearray()
        while True:
            data = await reader.read(64 * 1024)
            if not data:
                return
            buffer += data
            acks = bytearray()
            start = 0
            while (end := packet_end(buffer, start)) is not None:
                body = start + (3 if buffer[start + 1] & 0x80 else 2)
                after_topic = body + 2 + int.from_bytes(buffer[body : body + 2], "big")
                if b"/up/heartbeat" in buffer[body:after_topic]:
                    self.received += 1
                acks += b"\x40\x02" + buffer[after_topic : after_topic + 2]
                start = end
            del buffer[:start]
            writer.write(bytes(acks))


def packet_end(buffer: bytearray, start: int) -> int | None:
    """Where the packet of at most 16 KiB at `start` ends, if all of it is there."""
    if len(buffer) - start < 3:
        return None
    length, head = buffer[start + 1], 2
    if length & 0x80:
        length, head = length & 0x7F | buffer[start + 2] << 7, 3
    end = start + head + length
    return end if end <= len(buffer) else None


def text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


def packet(head: int, body: bytes) -> bytes:
    if len(body) < 128:
        return bytes([head, len(body)]) + body
    return bytes([head, len(body) & 0x7F | 0x80, len(body) >> 7]) + body


def resident_kib(pid: int) -> float:
    """Resident memory of a process (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise RuntimeError("no VmRSS")


async def revoke_listed(front: Front, directory: Path) -> None:
    """Pull the kill switch on the agents whose ids stand in the file `revoked`."""
    lines = (directory / "revoked").read_text().split()
    await front.apply(
        [Revocation(number, UUID(line), None) for number, line in enumerate(lines, 1)]
    )


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used (Linux)."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(engine: str, directory: Path) -> Iterator[tuple[int, int]]:
    """An engine in a process of its own; gives port and process id."""
    command = [sys.executable, __file__, "serve", engine, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["port"], process.pid
        finally:
            process.kill()


async def serve(engine: str, directory: Path) -> None:
    """Serve until killed."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    server: Any
    if engine == "front":
        pem = (directory / "ca.pem").read_text()
        authority = CertificateAuthority.load(pem, (directory / "ca.key").read_bytes())
        identity = ServiceIdentity(TRUST_DOMAIN, "broker")
        certificate = ServiceCertificate(authority, identity, hosts=["localhost"])
        context = certificate.server_context([authority.certificate])
        server = Front(
            FrontSetup(
                front_id="bench",
                host="127.0.0.1",
                port=0,
                trust_domain=TRUST_DOMAIN,
                tls=lambda: context,
                cas=lambda: [authority.certificate],
                denied=DenySet(stale_after=None),
                # What an agent may send in a second is not what is measured.
                limits=Limits(messages_per_s=1e9),
            )
        )
        await server.start()
        loop, front = asyncio.get_running_loop(), server
        loop.add_signal_handler(
            signal.SIGUSR1, lambda: loop.create_task(revoke_listed(front, directory))
        )
        port = server.address[1]
    else:
        listener = {
            "bind": "127.0.0.1:0",
            "ssl": True,
            "certfile": str(directory / "server.pem"),
            "keyfile": str(directory / "server.key"),
            "cafile": str(directory / "ca.pem"),
        }
        plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
        server = Broker({"listeners": {"default": listener}, "plugins": plugins})
        await server.start()
        # amqtt does not say which port it was given.
        port = server._servers["default"].instance.sockets[0].getsockname()[1]
    print(json.dumps({"port": port}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(sys.argv[2], Path(sys.argv[3])))
    else:
        main(*map(float, sys.argv[1:2]))
