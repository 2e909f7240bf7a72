"""A real NATS server on free ports, under the certificates of a made-up platform."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import nats
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from nats.aio.client import Client

from broker.nats.configuration import Files, Node, render
from broker.nats.keys import CalloutKeys
from tensorguard.pki.identity import ServiceIdentity
from tensorguard.pki.issuer import CertificateAuthority
from tests.integration.broker.certificates import TRUST_DOMAIN, Credentials
from tests.patience import PATIENCE_S


def program() -> Path:
    """Where the wheel put the server."""
    return Path(sys.executable).parent / "nats-server"


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now; taken together, so that no two are the same."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@dataclass(frozen=True)
class RunningServer:
    """One server; `port` is for services, `mqtt_port` for agents."""

    node: Node
    process: subprocess.Popen[bytes]
    ca_path: Path
    log_path: Path

    @property
    def port(self) -> int:
        return int(self.node.listen.rpartition(":")[2])

    @property
    def mqtt_port(self) -> int:
        return int(self.node.mqtt.rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"tls://localhost:{self.port}"

    async def connect(self, credentials: Credentials, **options: object) -> Client:
        """A NATS connection with a service's certificate."""
        context = ssl.create_default_context(cafile=self.ca_path)
        context.load_cert_chain(credentials.certificate_path, credentials.key_path)
        return await nats.connect(
            self.url, tls=context, tls_handshake_first=True, connect_timeout=PATIENCE_S, **options
        )


def write_server_files(
    folder: Path, authority: CertificateAuthority, trust_domain: str = TRUST_DOMAIN
) -> Files:
    """A server's certificate of that CA, with its key and the CA, in a folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue_service(
        key.public_key(),
        ServiceIdentity(trust_domain, "broker"),
        datetime.now(UTC),
        dns_names=["localhost"],
        ip_addresses=[ip_address("127.0.0.1")],
    )
    files = Files(folder / "node.pem", folder / "node.key", folder / "ca.pem", folder / "store")
    files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files.cas.write_text(authority.certificate_pem)
    return files


@asynccontextmanager
async def running_server(
    folder: Path,
    authority: CertificateAuthority,
    keys: CalloutKeys,
    trust_domain: str = TRUST_DOMAIN,
) -> AsyncIterator[RunningServer]:
    """Start one server and wait until it listens; its data is gone with the folder."""
    serving = serving_node(folder, authority, keys, trust_domain)
    try:
        yield await asyncio.to_thread(serving.__enter__)
    finally:
        await asyncio.to_thread(serving.__exit__, None, None, None)


@contextmanager
def serving_node(
    folder: Path,
    authority: CertificateAuthority,
    keys: CalloutKeys,
    trust_domain: str = TRUST_DOMAIN,
    rendered: Callable[[Node], str] = render,
) -> Iterator[RunningServer]:
    """Do the same for a fixture that outlives its event loop."""
    port, mqtt_port = free_ports(2)
    node = Node(
        name="node-1",
        listen=f"127.0.0.1:{port}",
        mqtt=f"127.0.0.1:{mqtt_port}",
        trust_domain=trust_domain,
        issuer=keys.issuer,
        xkey=keys.xkey,
        files=write_server_files(folder, authority, trust_domain),
    )
    configuration, log_path = folder / "nats.conf", folder / "nats.log"
    configuration.write_text(rendered(node))
    process = subprocess.Popen([program(), "-c", configuration, "-l", log_path])
    try:
        _wait(process, log_path)
        yield RunningServer(node, process, node.files.cas, log_path)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _wait(process: subprocess.Popen[bytes], log_path: Path) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not (log_path.exists() and "Server is ready" in log_path.read_text()):
        said = log_path.read_text() if log_path.exists() else "nothing"
        assert process.poll() is None, said
        assert time.monotonic() < give_up_at, said
        time.sleep(0.02)  # only its log tells


async def answered(server: RunningServer, credentials: Credentials, **options: str) -> None:
    """Connect, and be answered: the client believes a server that hangs up to be connected."""
    connection = await server.connect(credentials, allow_reconnect=False, **options)
    try:
        await connection.flush(timeout=15)  # who is refused never hears more
    finally:
        await connection.close()
