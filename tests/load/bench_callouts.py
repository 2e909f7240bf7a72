"""TLS connects/s to a NATS node whose newcomers our responder admits, beside static users.

python tests/load/bench_callouts.py [agents [rounds]]

Both nodes check the same certificates of the same CA. Beside ours stands the least that NATS can
do: users and permissions in its file, a password in CONNECT, nobody asked. Servers and responder
are processes of their own, all clients are in this one; rounds take turns.
"""

import asyncio
import contextlib
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import uvloop

from broker.denyset import DenySet
from broker.nats.configuration import AGENTS, Node, render
from broker.nats.front import NatsFront, NatsSetup
from broker.nats.keys import CalloutKeys
from broker.nats.permissions import permissions_of
from broker.rights import rights_of
from tensorguard.pki.identity import AgentIdentity, ServiceIdentity
from tensorguard.pki.issuer import CertificateAuthority
from tensorguard.protocol import topics
from tensorguard.services.certificates.certificates import ServiceCertificate
from tests.integration.nats.server import RunningServer, serving_node
from tests.load.bench_broker import (
    CONNECTS_AT_ONCE,
    TRUST_DOMAIN,
    Site,
    Streams,
    cpu_seconds,
    packet,
    resident_kib,
    text,
)

ENGINES = ("static users", "our responder")
PROMISED_RATIO = 0.8
PASSWORD = "bench"


@dataclass
class Figures:
    """What one round of connects took."""

    connects_per_s: float
    node_cpu_ms: float
    responder_cpu_ms: float
    client_cpu_ms: float
    kib_per_connection: float


def main(agents: int = 1000, rounds: int = 3) -> None:
    """Print connects/s of both, their ratio, and what a callout costs."""
    found: dict[str, list[Figures]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory(prefix="bench-callouts-") as name:
        site = Site.create(Path(name), agents)
        for _ in range(rounds):
            for engine in ENGINES:
                found[engine].append(measure(engine, site))
    print(f"{'':14}{'TLS connects/s':>16}{'node CPU':>12}{'responder CPU':>16}{'a connection':>16}")
    for engine, figures in found.items():
        best = max(figures, key=lambda one: one.connects_per_s)
        memory = statistics.median(one.kib_per_connection for one in figures)
        print(
            f"{engine:14}{best.connects_per_s:16.0f}{best.node_cpu_ms:9.2f} ms"
            f"{best.responder_cpu_ms:13.2f} ms{memory:12.1f} KiB"
        )
    static, ours = (max(one.connects_per_s for one in found[engine]) for engine in ENGINES)
    callout_ms = min(one.responder_cpu_ms for one in found[ENGINES[1]])
    print(f"ratio {ours / static:.2f}; promised {PROMISED_RATIO}")
    alone, asking = (min(_without_responder_ms(one) for one in found[engine]) for engine in ENGINES)
    print(f"the same if the responder cost nothing (node and clients): {alone / asking:.2f}")
    print(f"callouts/s that one responder's core answers: {1000 / callout_ms:.0f}")


def _without_responder_ms(figures: Figures) -> float:
    return figures.node_cpu_ms + figures.client_cpu_ms


def measure(engine: str, site: Site) -> Figures:
    """Start a node, connect every agent, and count."""
    keys = CalloutKeys.generate()
    is_static = engine == ENGINES[0]
    identities = [identity for identity, _ in site.agents]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=site.directory)))
        rendered = (lambda node: render_static(node, identities)) if is_static else render
        server = stack.enter_context(
            serving_node(folder, site.authority, keys, TRUST_DOMAIN, rendered)
        )
        pid = None if is_static else stack.enter_context(responder(site, keys, server))
        return uvloop.run(connect_all(site, server, pid))


async def connect_all(site: Site, server: RunningServer, responder_pid: int | None) -> Figures:
    """Connect all agents, so many at once; they stay until the last is there."""
    gate = asyncio.Semaphore(CONNECTS_AT_ONCE)

    async def one(identity: AgentIdentity, context: Any) -> Streams:
        async with gate:
            return await connect(server, identity, context, is_static=responder_pid is None)

    first = await one(*site.agents[0])  # its account's streams are made for the first
    pid, agents = server.process.pid, site.agents[1:]
    memory, cpu = resident_kib(pid), cpu_seconds(pid)
    responder_cpu = cpu_seconds(responder_pid) if responder_pid else 0.0
    own_cpu, began = time.process_time(), time.perf_counter()
    streams = await asyncio.gather(*(one(*agent) for agent in agents))
    took = time.perf_counter() - began
    count = len(agents)
    figures = Figures(
        count / took,
        1000 * (cpu_seconds(pid) - cpu) / count,
        1000 * (cpu_seconds(responder_pid) - responder_cpu) / count if responder_pid else 0.0,
        1000 * (time.process_time() - own_cpu) / count,
        (resident_kib(pid) - memory) / count,
    )
    for _, writer in (first, *streams):
        writer.transport.abort()
    return figures


async def connect(
    server: RunningServer, identity: AgentIdentity, context: Any, *, is_static: bool
) -> Streams:
    """TLS, CONNECT and SUBSCRIBE of one agent."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.mqtt_port, ssl=context, server_hostname="localhost"
    )
    client_id = identity.common_name
    flags = b"\xc2" if is_static else b"\x02"
    credentials = text(client_id) + text(PASSWORD) if is_static else b""
    writer.write(
        packet(0x10, b"\x00\x04MQTT\x04" + flags + b"\x02\x58" + text(client_id) + credentials)
    )
    assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
    filters = topics.subscribable(identity.fleet, identity.agent_id)
    writer.write(packet(0x82, b"\x00\x01" + b"".join(text(wish) + b"\x00" for wish in filters)))
    suback = await reader.readexactly(4 + len(filters))
    assert suback[4:] == bytes(len(filters)), suback
    return reader, writer


def render_static(node: Node, agents: list[AgentIdentity]) -> str:
    """The configuration of a node that finds every agent and its permissions in its own file."""
    tls = {
        "cert_file": str(node.files.certificate),
        "key_file": str(node.files.key),
        "ca_file": str(node.files.cas),
        "verify": True,
    }
    users = []
    for agent in agents:
        allowed = permissions_of(rights_of(agent))
        permissions = {
            "publish": {"allow": list(allowed.publish)},
            "subscribe": {"allow": list(allowed.subscribe)},
        }
        users.append({"user": agent.common_name, "password": PASSWORD, "permissions": permissions})
    parts = {
        "server_name": node.name,
        "listen": node.listen,
        "mqtt": {"listen": node.mqtt, "tls": tls},
        "jetstream": {"store_dir": str(node.files.store)},
        "accounts": {AGENTS: {"jetstream": "enabled", "users": users}},
    }
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in parts.items())


@contextmanager
def responder(site: Site, keys: CalloutKeys, server: RunningServer) -> Iterator[int]:
    """A front beside the node, in a process of its own; gives its process id."""
    place = site.directory / "callout.key"
    place.unlink(missing_ok=True)
    keys.store(place)
    command = [sys.executable, __file__, "serve", str(site.directory), server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process.pid
        finally:
            process.kill()


async def serve(directory: Path, url: str) -> None:
    """Be the front, until killed."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    pem = (directory / "ca.pem").read_text()
    authority = CertificateAuthority.load(pem, (directory / "ca.key").read_bytes())
    identity = ServiceIdentity(TRUST_DOMAIN, "broker")
    certificate = ServiceCertificate(authority, identity, hosts=["localhost"])
    front = NatsFront(
        NatsSetup(
            front_id="bench",
            url=url,
            address=("127.0.0.1", 0),  # told to nobody here
            trust_domain=TRUST_DOMAIN,
            keys=CalloutKeys.load(directory / "callout.key"),
            tls=lambda: certificate.client_context([authority.certificate]),
            cas=lambda: [authority.certificate],
            denied=DenySet(stale_after=None),
        )
    )
    await front.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(Path(sys.argv[2]), sys.argv[3]))
    else:
        main(*map(int, sys.argv[1:]))
