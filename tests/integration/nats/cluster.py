"""Several real NATS servers in one cluster, which can be killed, started again and cut apart.

Every route goes through a proxy of its own, so that a cut needs no rights on the machine's network.
"""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from broker.nats.configuration import Cluster, Node, render
from broker.nats.health import Health, NodeSilent, ask
from broker.nats.keys import CalloutKeys
from tensorguard.pki.issuer import CertificateAuthority
from tests.integration.broker.certificates import TRUST_DOMAIN, Credentials, Platform
from tests.integration.nats.server import (
    PATIENCE_S,
    RunningServer,
    free_ports,
    program,
    write_server_files,
)

_NOWHERE = "localhost:9"  # what nodes tell each other of themselves: routes are the proxies' alone


class Link:
    """One direction in which a node may reach another."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()

    async def open(self) -> None:
        """Carry what comes from now on."""
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)

    async def close(self) -> None:
        """End every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        self._flowing.set()  # nobody waits for ever

    def hold(self) -> None:
        """Carry nothing, and tell nobody: as a network does that loses every packet."""
        self._flowing.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, onwards = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(onwards)
        try:
            await asyncio.gather(self._pump(reader, onwards), self._pump(there, writer))
        finally:
            for one in (writer, onwards):
                one.transport.abort()
                self._writers.discard(one)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
        sink.transport.abort()


@dataclass
class RunningCluster:
    """The nodes by index; `servers[i]` is the newest start of node i."""

    servers: list[RunningServer]
    links: dict[tuple[int, int], Link]
    broker: Credentials
    folders: list[Path] = field(default_factory=list)

    @property
    def mqtt_ports(self) -> list[int]:
        return [server.mqtt_port for server in self.servers]

    def kill(self, index: int) -> None:
        """kill -9 one node."""
        self.servers[index].process.kill()
        self.servers[index].process.wait(PATIENCE_S)

    async def start(self, index: int) -> None:
        """Start a node that was killed, on what it had stored."""
        old = self.servers[index]
        assert old.process.poll() is not None
        self.servers[index] = replace(old, process=await asyncio.to_thread(_spawn, old.node))

    async def cut(self, index: int, *, silently: bool = False) -> None:
        """Cut one node apart from the others; silently, nobody is told by TCP."""
        for pair, link in self.links.items():
            if index in pair:
                if silently:
                    link.hold()
                else:
                    await link.close()

    async def heal(self) -> None:
        """Undo every cut; connections that were held go on where they were."""
        for link in self.links.values():
            await link.open()

    async def health(self, index: int) -> Health:
        """What a node says of itself. Raises: NodeSilent."""
        server = self.servers[index]
        context = self.broker.client_context(server.ca_path)
        return await ask(f"tls://localhost:{server.port}", context)

    async def until_healthy(self, nodes: Iterable[int] | None = None, within_s: float = 60) -> None:
        """Wait until these nodes, or all, have a JetStream that serves."""
        wanted = list(range(len(self.servers)) if nodes is None else nodes)
        trouble: dict[int, str] = dict.fromkeys(wanted, "not asked yet")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while any(trouble.values()):
                    for index in wanted:
                        trouble[index] = await self._trouble(index)
                    await asyncio.sleep(0.1)
        assert not any(trouble.values()), trouble

    async def _trouble(self, index: int) -> str:
        try:
            return (await self.health(index)).trouble
        except NodeSilent as error:
            return error.message


@asynccontextmanager
async def running_cluster(
    folder: Path, platform: Platform, keys: CalloutKeys, size: int = 3, *, replicas: int = 3
) -> AsyncIterator[RunningCluster]:
    """Start the nodes, wait until they serve, and end whatever runs of them at the end."""
    async with AsyncExitStack() as stack:
        cluster = await _start(folder, platform, keys, size, replicas)
        stack.push_async_callback(asyncio.to_thread, _end, cluster)
        for link in cluster.links.values():
            stack.push_async_callback(link.close)
            await link.open()
        await cluster.until_healthy()
        yield cluster


async def _start(
    folder: Path, platform: Platform, keys: CalloutKeys, size: int, replicas: int
) -> RunningCluster:
    pairs = [(i, j) for i in range(size) for j in range(size) if i != j]
    ports = free_ports(3 * size + len(pairs))
    listens = [ports[3 * index : 3 * index + 3] for index in range(size)]
    links = {
        pair: Link(port, listens[pair[1]][2])
        for pair, port in zip(pairs, ports[3 * size :], strict=True)
    }
    servers, folders = [], []
    for index, (port, mqtt_port, route_port) in enumerate(listens):
        home = folder / f"node-{index + 1}"
        home.mkdir()
        routes = [f"localhost:{link.port}" for (i, _), link in links.items() if i == index]
        node = cluster_node(
            home,
            platform.authority,
            keys,
            index=index,
            ports=(port, mqtt_port),
            cluster=Cluster("test", f"127.0.0.1:{route_port}", routes),
            replicas=min(replicas, size),
        )
        process = await asyncio.to_thread(_spawn, node)
        servers.append(RunningServer(node, process, node.files.cas, home / "nats.log"))
        folders.append(home)
    return RunningCluster(servers, links, platform.service("broker"), folders)


def cluster_node(
    home: Path,
    authority: CertificateAuthority,
    keys: CalloutKeys,
    *,
    index: int,
    ports: tuple[int, int],
    cluster: Cluster,
    replicas: int,
) -> Node:
    """One node of a cluster with its files, and its configuration in `home`."""
    node = Node(
        name=f"node-{index + 1}",
        listen=f"127.0.0.1:{ports[0]}",
        mqtt=f"127.0.0.1:{ports[1]}",
        trust_domain=TRUST_DOMAIN,
        issuer=keys.issuer,
        xkey=keys.xkey,
        files=write_server_files(home, authority),
        stored_bytes=1024**3,
        replicas=replicas,
        cluster=cluster,
        log=home / "nats.log",
    )
    text = render(node)
    told = text.replace('"no_advertise": true', f'"no_advertise": true, "advertise": "{_NOWHERE}"')
    assert told != text
    (home / "nats.conf").write_text(told)
    return node


def _spawn(node: Node) -> subprocess.Popen[bytes]:
    return subprocess.Popen([program(), "-c", node.files.store.parent / "nats.conf"])


def _end(cluster: RunningCluster) -> None:
    for server in cluster.servers:
        server.process.terminate()
    for server in cluster.servers:
        try:
            server.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait(PATIENCE_S)
