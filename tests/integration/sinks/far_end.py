"""Far ends on real sockets with TLS: what they have taken, and the troubles that a test orders."""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NAME = "siem.example"


class Authority:
    """A CA, and certificates of far ends that it has issued."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        self._certificate = self._issue(self._name, self._key, [], is_ca=True)
        self.pem = self._certificate.public_bytes(Encoding.PEM).decode()

    def files_for(self, name: str) -> tuple[Path, Path]:
        """A certificate for a name and for loopback, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName(name), x509.IPAddress(IPv4Address("127.0.0.1"))]
        certificate = self._issue(subject, key, names, is_ca=False)
        at, secret = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        at.write_bytes(certificate.public_bytes(Encoding.PEM))
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return at, secret

    def server_context(self, name: str = NAME) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.files_for(name))
        return context

    def _issue(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: list[x509.GeneralName],
        *,
        is_ca: bool,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )
        if is_ca:
            usage = x509.KeyUsage(*(False,) * 5, key_cert_sign=True, crl_sign=True, **_NO_ENCIPHER)
            builder = builder.add_extension(usage, critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        return builder.sign(self._key, hashes.SHA256())


_NO_ENCIPHER = {"encipher_only": False, "decipher_only": False}


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Cut(Exception):
    """The connection is cut instead of an answer."""


Handler = Callable[[Request], Reply]
Trouble = Callable[[Request, Handler], Awaitable[Reply]]


def answers(status: int, body: bytes = b"", **headers: str) -> Trouble:
    """Do nothing with the request but answer."""

    async def trouble(request: Request, handle: Handler) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Reply(status, body, named)

    return trouble


async def cut_after_accept(request: Request, handle: Handler) -> Reply:
    """Take what was sent, and say nothing of it."""
    handle(request)
    raise Cut


async def cut_before(request: Request, handle: Handler) -> Reply:
    """Take nothing, and say nothing."""
    raise Cut


async def hang(request: Request, handle: Handler) -> Reply:
    """Take it, and answer when nobody waits any more."""
    handle(request)
    await asyncio.Event().wait()
    raise AssertionError("never")


class HttpsEnd:
    """An HTTPS server on loopback; `troubles` meet the next requests, one each."""

    def __init__(self, handle: Handler, tls: ssl.SSLContext, *, host: str = "127.0.0.1") -> None:
        self._handle = handle
        self._tls = tls
        self._host = host
        self.port = 0
        self.troubles: deque[Trouble] = deque()
        self.requests: list[Request] = []
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self._host, self.port, ssl=self._tls)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """As if it were killed: it listens no more, and its connections are gone."""
        if self._server is not None:
            self._server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                if self.troubles:
                    reply = await self.troubles.popleft()(request, self._handle)
                else:
                    reply = self._handle(request)
                headers = {"Content-Length": str(len(reply.body)), **reply.headers}
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"HTTP/1.1 {reply.status} X\r\n{lines}\r\n".encode() + reply.body)
                await writer.drain()
        except (Cut, ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._open.discard(task)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    """One request, strictly: a known length and a host, nothing chunked."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")[:-2]
    method, path, version = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        assert name.lower() not in headers, f"{name} twice"
        headers[name.lower()] = value
    assert (method, version) == ("POST", "HTTP/1.1")
    assert headers["host"]
    body = await reader.readexactly(int(headers["content-length"]))
    return Request(path, headers, body)


@contextlib.asynccontextmanager
async def serving(end: HttpsEnd) -> AsyncIterator[HttpsEnd]:
    await end.start()
    try:
        yield end
    finally:
        await end.stop()
