"""A platform made of foreign parts: mosquitto with mutual TLS, Python's HTTP server, a paho hub.

It speaks only what messages.md says, so that the agent is tested against the page and not against
our own services.
"""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import msgspec
import uuid6
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent.runtime.keys import private_pem
from tensorguard.pki.csr import parse_csr
from tensorguard.pki.identity import AgentIdentity, ServiceIdentity, spki_sha256
from tensorguard.pki.issuer import certificate_pem
from tensorguard.pki.keys import kid_of
from tensorguard.protocol import codec, topics
from tensorguard.protocol.join import Join
from tensorguard.protocol.messages import (
    Ack,
    CertificateIssued,
    CsrRequest,
    Desired,
    DesiredPackage,
    Enrolled,
    EnrollRequest,
    Event,
    FleetConfig,
    Grant,
    Heartbeat,
    KeyRequest,
    Message,
    MqttAddress,
    Progress,
)
from tensorguard.protocol.topics import DownKind, UpKind
from tensorguard.tgsp import builder, grants, opener, reader
from tests.patience import PATIENCE_S
from tests.unit.agent.builders import TRUST_DOMAIN, Signers

FLEET = "hospital-a"
TOKEN = "only-the-right-server-may-see-this"
M = TypeVar("M", bound=Message)
MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"


@dataclass
class Seen:
    """A request as the HTTP server saw it."""

    method: str
    path: str
    body: bytes
    range: str | None
    status: int = 0


@dataclass
class BuiltPackage:
    digest: str
    data: bytes
    dek: bytes
    name: str


@dataclass
class Platform:
    """The state of the mini platform; everything is answered from here."""

    signers: Signers
    folder: Path
    device_port: int = 0
    mqtt_port: int = 0
    requests: list[Seen] = field(default_factory=list)
    bundles: dict[int, bytes] = field(default_factory=dict)
    packages: dict[str, BuiltPackage] = field(default_factory=dict)
    enrolled: dict[bytes, Enrolled] = field(default_factory=dict)
    encryption_keys: dict[UUID, bytes] = field(default_factory=dict)
    spoil: Callable[[Enrolled], Enrolled] = lambda answer: answer
    refuse: tuple[int, str] | None = None
    pending: int = 0
    drop_answers: int = 0
    cut_after_bytes: int | None = None
    busy: int = 0
    interval_s: int = 1
    hub: "Hub | None" = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.device_port}"

    @property
    def join(self) -> Join:
        return Join(url=self.url, ca=spki_sha256(self.signers.ca.certificate), token=TOKEN)

    def config(self, revision: int = 1) -> FleetConfig:
        return FleetConfig(
            **self.signers.times(),
            fleet=FLEET,
            epoch=1,
            revision=revision,
            heartbeat_interval_s=self.interval_s,
        )

    def enroll(self, request: EnrollRequest) -> Enrolled:
        known = self.enrolled.get(request.encryption_key)
        if known is not None:
            return known
        identity = AgentIdentity(TRUST_DOMAIN, FLEET, UUID(str(uuid6.uuid7())))
        leaf = self.signers.ca.issue_agent(parse_csr(request.csr), identity, datetime.now(UTC))
        answer = Enrolled(
            agent_id=identity.agent_id,
            fleet=FLEET,
            certificate=certificate_pem(leaf),
            mqtt=MqttAddress(host="localhost", port=self.mqtt_port),
            config=msgspec.json.decode(self.signers.sign(self.config())),
            trust=msgspec.json.decode(self.bundles[1]),
        )
        self.enrolled[request.encryption_key] = answer
        self.encryption_keys[identity.agent_id] = request.encryption_key
        return answer

    def build(
        self, files: dict[str, bytes], version: str = "1.0.0", seq: int = 1, **more: Any
    ) -> BuiltPackage:
        """Build, sign and keep a package; its DEK comes from its own embedded grant."""
        source = self.folder / f"source-{uuid4().hex}"
        source.mkdir()
        for name, content in files.items():
            (source / name).write_bytes(content)
        recipient = X25519PrivateKey.generate()
        out = source.with_suffix(".tgsp")
        now = datetime.now(UTC)
        built = builder.build(
            source,
            out,
            name=more.pop("name", "model"),
            version=version,
            seq=seq,
            publisher=self.signers.publisher.private_key,
            recipient=recipient.public_key(),
            created=int(now.timestamp()),
            not_before=int(now.timestamp()) - 60,
            **more,
        )
        data = out.read_bytes()
        with out.open("rb") as file:
            header = reader.read_header(file, len(data))
        dek = opener.unwrap_embedded(recipient, now)(header)
        package = BuiltPackage(built.digest.hex(), data, dek, built.manifest.name)
        self.packages[package.digest] = package
        return package

    def desired(
        self, agent_id: UUID, package: BuiltPackage | None, revision: int, **changes: Any
    ) -> Desired:
        fields = self.signers.times() | {
            "agent_id": agent_id,
            "deployment_id": uuid4(),
            "release": None,
            "package": None
            if package is None
            else DesiredPackage(
                digest=package.digest,
                size=len(package.data),
                url=f"/device/v1/packages/{package.digest}?signature=secret",
            ),
            "tags": {},
            "min_seq": 0,
            "allow_downgrade": False,
            "epoch": 1,
            "revision": revision,
        }
        return Desired(**(fields | changes))

    def grant(self, agent_id: UUID, request: KeyRequest) -> Grant:
        package = self.packages[request.package_digest]
        raw = self.encryption_keys[agent_id]
        exp = int((datetime.now(UTC) + timedelta(minutes=10)).timestamp())
        sealed = grants.seal_grant(
            package.dek,
            recipient=X25519PublicKey.from_public_bytes(raw),
            manifest_digest=bytes.fromhex(package.digest),
            exp=exp,
        )
        return Grant(
            **self.signers.times(),
            agent_id=agent_id,
            request_id=request.request_id,
            package_digest=request.package_digest,
            kid=kid_of(raw),
            exp=exp,
            sealed=sealed,
        )


class Hub:
    """Collects what agents say; commits and acks events, answers key and signing requests."""

    def __init__(self, platform: Platform, tls: ssl.SSLContext) -> None:
        self.platform = platform
        self.changed = threading.Condition()
        self.messages: list[tuple[UUID, UpKind, bytes]] = []
        self.events: dict[tuple[UUID, UUID, int], bytes] = {}
        self.conflicts = 0
        self.acking = True
        self.granting = True
        self.desired: dict[UUID, bytes] = {}
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="hub", protocol=paho.MQTTv311
        )
        self.client.tls_set_context(tls)
        subscribed = threading.Event()
        self.client.on_connect = lambda client, *_: client.subscribe("tg/v1/+/+/up/+", 1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = self._on_message
        self.client.connect("localhost", platform.mqtt_port, keepalive=60)
        self.client.loop_start()
        assert subscribed.wait(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def send(self, agent_id: UUID, kind: DownKind, payload: bytes) -> None:
        self.client.publish(topics.down(FLEET, agent_id, kind), payload, qos=1)

    def deploy(self, desired: Desired) -> None:
        """Have it sent at each heartbeat that shows to be behind, and now."""
        signed = self.platform.signers.sign(desired)
        self.desired[desired.agent_id] = signed
        self.send(desired.agent_id, DownKind.DESIRED, signed)

    def of(self, agent_id: UUID, kind: UpKind, type_: type[M]) -> list[M]:
        with self.changed:
            return [
                codec.decode(type_, p) for a, k, p in self.messages if (a, k) == (agent_id, kind)
            ]

    def wait(self, condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
        """Wait until something that agents say makes the condition true; return its value."""
        until = time.monotonic() + timeout_s
        with self.changed:
            while not (value := condition()):
                left = until - time.monotonic()
                assert left > 0, f"not seen in {timeout_s} s; last: {self.messages[-5:]}"
                self.changed.wait(min(left, 1.0))
        return value

    def wait_for_state(self, agent_id: UUID, state: str, deployment_id: UUID) -> Progress:
        def found() -> Progress | None:
            for one in self.of(agent_id, UpKind.PROGRESS, Progress):
                if (one.state, one.deployment_id) == (state, deployment_id):
                    return one
            return None

        progress = self.wait(found)
        assert isinstance(progress, Progress)
        return progress

    def events_of(self, agent_id: UUID) -> list[Event]:
        with self.changed:
            rows = sorted((key[1:], p) for key, p in self.events.items() if key[0] == agent_id)
        return sorted((codec.decode(Event, p) for _, p in rows), key=lambda e: (e.at, e.number))

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        topic = topics.parse_up(message.topic)
        assert isinstance(topic, topics.UpTopic)
        payload = bytes(message.payload)
        codec.decode_up(topic.kind, payload)
        with self.changed:
            self.messages.append((topic.agent_id, topic.kind, payload))
            self._answer(topic.agent_id, topic.kind, payload)
            self.changed.notify_all()

    def _answer(self, agent_id: UUID, kind: UpKind, payload: bytes) -> None:
        if kind is UpKind.EVENT:
            event = codec.decode(Event, payload)
            known = self.events.setdefault((agent_id, event.log_id, event.number), payload)
            self.conflicts += known != payload
            if self.acking:
                self.ack(agent_id, event.log_id)
        elif kind is UpKind.KEY_REQUEST and self.granting:
            grant = self.platform.grant(agent_id, codec.decode(KeyRequest, payload))
            self.send(agent_id, DownKind.GRANT, self.platform.signers.sign(grant))
        elif kind is UpKind.CSR:
            self._certify(agent_id, codec.decode(CsrRequest, payload))
        elif kind is UpKind.HEARTBEAT and agent_id in self.desired:
            beat = codec.decode(Heartbeat, payload)
            if beat.has.desired is None:
                self.send(agent_id, DownKind.DESIRED, self.desired[agent_id])

    def ack(self, agent_id: UUID, log_id: UUID) -> None:
        through = 0
        while (agent_id, log_id, through + 1) in self.events:
            through += 1
        self.send(agent_id, DownKind.ACK, codec.encode(Ack(log_id=log_id, through=through)))

    def _certify(self, agent_id: UUID, request: CsrRequest) -> None:
        identity = AgentIdentity(TRUST_DOMAIN, FLEET, agent_id)
        key = parse_csr(request.csr)
        leaf = self.platform.signers.ca.issue_agent(key, identity, datetime.now(UTC))
        answer = CertificateIssued(
            **self.platform.signers.times(),
            agent_id=agent_id,
            request_id=request.request_id,
            certificate=certificate_pem(leaf),
        )
        self.send(agent_id, DownKind.CERTIFICATE, self.platform.signers.sign(answer))


def issue_service(signers: Signers, name: str, out: Path, *, begin: datetime | None = None) -> Path:
    """Write key and certificate of a service for localhost into one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = signers.ca.issue_service(
        key.public_key(),
        ServiceIdentity(TRUST_DOMAIN, name),
        begin or datetime.now(UTC),
        dns_names=["localhost"],
        ip_addresses=[ip_address("127.0.0.1")],
    )
    out.write_bytes(private_pem(key) + leaf.public_bytes(Encoding.PEM))
    out.chmod(0o600)
    return out


@contextmanager
def running_device_api(platform: Platform, pem: Path) -> Iterator[None]:
    """Serve the device side of the API over TLS on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._serve("GET", b"")

        def do_POST(self) -> None:
            self._serve("POST", self.rfile.read(int(self.headers["Content-Length"])))

        def _serve(self, method: str, body: bytes) -> None:
            seen = Seen(method, self.path, body, self.headers.get("Range"))
            platform.requests.append(seen)
            path = self.path.partition("?")[0]
            if path == "/device/v1/ca":
                ca = platform.signers.ca.certificate_pem.encode()
                self._send(seen, 200, ca, "application/x-pem-file")
            elif path == "/device/v1/enroll":
                self._enroll(seen)
            elif path.startswith("/device/v1/trust/"):
                bundle = platform.bundles.get(int(path.rsplit("/", 1)[1]))
                self._send(seen, 200 if bundle else 404, bundle or b"{}")
            elif path.startswith("/device/v1/packages/"):
                self._package(seen, path.rsplit("/", 1)[1])
            else:
                self._send(seen, 404, b"{}")

        def _enroll(self, seen: Seen) -> None:
            if platform.refuse:
                status, kind = platform.refuse
                problem = {"type": f"https://tensorguard.dev/problems/{kind}", "detail": kind}
                self._send(seen, status, msgspec.json.encode(problem), "application/problem+json")
                return
            if platform.pending:
                platform.pending -= 1
                waiting = {"status": "pending", "agent_id": str(uuid4()), "poll_after_s": 1}
                self._send(seen, 202, msgspec.json.encode(waiting))
                return
            answer = platform.enroll(codec.decode(EnrollRequest, seen.body))
            if platform.drop_answers:
                platform.drop_answers -= 1
                self.close_connection = True
                return
            self._send(seen, 201, codec.encode(platform.spoil(answer)))

        def _package(self, seen: Seen, digest: str) -> None:
            package = platform.packages.get(digest)
            if package is None:
                self._send(seen, 404, b"{}")
                return
            if platform.busy:
                platform.busy -= 1
                self._send(seen, 503, b"{}")
                return
            first, _, last = (seen.range or "bytes=0-").removeprefix("bytes=").partition("-")
            begin, end = int(first), int(last) + 1 if last else len(package.data)
            data = package.data[begin:end]
            seen.status = 206 if seen.range else 200
            self.send_response(seen.status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{digest}"')
            if seen.range:
                stop = begin + len(data) - 1
                self.send_header("Content-Range", f"bytes {begin}-{stop}/{len(package.data)}")
            self.end_headers()
            if platform.cut_after_bytes is not None:
                self.wfile.write(data[: platform.cut_after_bytes])
                self.wfile.flush()
                platform.cut_after_bytes = None
                self.close_connection = True
                return
            self.wfile.write(data)

        def _send(
            self, seen: Seen, status: int, body: bytes, kind: str = "application/json"
        ) -> None:
            seen.status = status
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if status == 503:
                self.send_header("Retry-After", "7")
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # clients that do not believe us, and cuts that the tests make

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = Server(("127.0.0.1", 0), Handler)
    # The handshake belongs into the connection's own thread.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    platform.device_port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def running_broker(platform: Platform, pem: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run mosquitto: client certificates required, each agent on its own topics only."""
    ca = platform.folder / "ca.pem"
    ca.write_text(platform.signers.ca.certificate_pem)
    acl = platform.folder / "acl"
    acl.write_text(
        "user hub\ntopic readwrite tg/v1/#\n\n"
        "pattern write tg/v1/+/%u/up/+\npattern read tg/v1/+/%u/down/#\n"
        "pattern read tg/v1/+/all/down/#\n"
    )
    platform.mqtt_port = platform.mqtt_port or free_port()
    config = platform.folder / "mosquitto.conf"
    config.write_text(
        f"listener {platform.mqtt_port} 127.0.0.1\nuser root\ncafile {ca}\ncertfile {pem}\n"
        f"keyfile {pem}\nrequire_certificate true\nuse_identity_as_username true\n"
        f"acl_file {acl}\nallow_anonymous false\nset_tcp_nodelay true\n"
    )
    process = subprocess.Popen(
        [MOSQUITTO, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", platform.mqtt_port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(10)


def hub_context(platform: Platform) -> ssl.SSLContext:
    pem = issue_service(platform.signers, "hub", platform.folder / "hub.pem")
    context = ssl.create_default_context(cadata=platform.signers.ca.certificate_pem)
    context.load_cert_chain(pem)
    return context


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def new_platform(folder: Path) -> Platform:
    """A platform that does not run yet."""
    signers = Signers(datetime.now(UTC))
    platform = Platform(signers, folder)
    platform.bundles[1] = signers.bundle()
    return platform


def leaf_of(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)
