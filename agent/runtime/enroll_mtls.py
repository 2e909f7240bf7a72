"""Joining a platform with the manufacturer's certificate (docs/protocol.md, Joining by mTLS)."""

import contextlib
import hmac
import queue
import re
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agent.core.effects import Publish
from agent.errors import (
    BadAnswer,
    BadEnrollmentUrl,
    DeviceCertificateUnusable,
    PinMismatch,
    PlatformBusy,
    Unreachable,
)
from agent.runtime.connection import Broker, Connection, Handlers
from agent.runtime.enroll import refused
from agent.runtime.https import TIMEOUT_S, unverified_context, verified_context
from agent.version import BUILD_TIME
from tensorguard.pki.identity import spki_sha256
from tensorguard.pki.issuer import certificate_pem
from tensorguard.protocol import codec, topics
from tensorguard.protocol.errors import BadMessage
from tensorguard.protocol.messages import (
    DeviceEnrollRequest,
    Enrolled,
    EnrollmentPending,
    EnrollmentRefused,
    Message,
)

ANSWER_WITHIN_S: Final = 60.0
_PIN: Final = re.compile(r"[0-9a-f]{64}")
_CHAIN_LIMIT: Final = 8
# Too many wait for an operator: the one refusal that is over by itself.
_QUEUE_FULL: Final = "enrollment-queue-full"
_QUEUE_RETRY_S: Final = 300.0


class _Status(Message, frozen=True, kw_only=True):
    """What every answer has."""

    status: str


@dataclass(frozen=True, slots=True)
class DeviceDoor:
    """The enrollment listener, by the device's certificate and key in files.

    One of `anchor` and `pin` is known; a pin is the hex SHA-256 of the platform CA's SPKI.
    """

    host: str
    port: int
    certificate: Path
    key: Path
    certificate_sha256: str
    anchor: x509.Certificate | None
    pin: str | None

    @classmethod
    def open(
        cls, *, url: str, ca_pin: str | None, ca_file: Path | None, certificate: Path, key: Path
    ) -> Self:
        """Read what the command line names. Raises: BadEnrollmentUrl, DeviceCertificateUnusable."""
        host, port = _split(url)
        if (ca_pin is None) == (ca_file is None):
            raise BadEnrollmentUrl("one of --ca and --ca-pin is needed")
        if ca_pin is not None and _PIN.fullmatch(ca_pin.lower()) is None:
            raise BadEnrollmentUrl("the pin has not 64 hex digits")
        leaf = _read_certificate(certificate)
        if leaf is None:
            raise DeviceCertificateUnusable(f"{certificate} has no certificate in PEM")
        anchor = None if ca_file is None else _read_certificate(ca_file)
        if ca_file is not None and anchor is None:
            raise BadEnrollmentUrl(f"{ca_file} has no certificate in PEM")
        door = cls(
            host=host,
            port=port,
            certificate=certificate,
            key=key,
            certificate_sha256=leaf.fingerprint(hashes.SHA256()).hex(),
            anchor=anchor,
            pin=None if ca_pin is None else ca_pin.lower(),
        )
        door._present(unverified_context())  # fails here if key and certificate do not belong
        return door

    def fetch_anchor(self) -> x509.Certificate:
        """Return the platform CA: from the file, or the one with the pin that the listener shows.

        Raises: Unreachable, PinMismatch.
        """
        if self.anchor is not None:
            return self.anchor
        assert self.pin is not None  # one of the two is known
        for der in self._fetch_chain()[:_CHAIN_LIMIT]:
            try:
                certificate = x509.load_der_x509_certificate(der)
                if hmac.compare_digest(spki_sha256(certificate), self.pin):
                    return certificate
            except ValueError:
                continue
        raise PinMismatch(f"the CA at {self.host}:{self.port} is not the one that the pin names")

    def ask(
        self, anchor: x509.Certificate, request: DeviceEnrollRequest, system: datetime
    ) -> Enrolled | EnrollmentPending:
        """Send the request in a session of its own and wait for the answer.

        Raises: Unreachable, PlatformBusy, EnrollmentRefused, BadAnswer.
        """
        behind = system < BUILD_TIME
        context = verified_context([certificate_pem(anchor)], clock_is_behind=behind)
        device = self.certificate_sha256
        broker = Broker(
            host=self.host,
            port=self.port,
            client_id=device,
            filters=(topics.device_down(device),),
            will=None,
            tls=self._present(context),
            agent_time=BUILD_TIME if behind else None,
        )
        answer = _read_answer(_exchange(broker, topics.device_up(device), codec.encode(request)))
        if isinstance(answer, EnrollmentRefused):
            if answer.code == _QUEUE_FULL:
                raise PlatformBusy(answer.detail, retry_after_s=_QUEUE_RETRY_S)
            raise refused(answer.code, answer.detail, answer.hint)
        return answer

    def device_url(self, answer: Enrolled) -> str:
        """Return the URL that packages come from. Raises: BadAnswer."""
        if answer.device_url is None or not answer.device_url.startswith("https://"):
            raise BadAnswer("the answer does not say where packages come from")
        return answer.device_url.rstrip("/")

    def _present(self, context: ssl.SSLContext) -> ssl.SSLContext:
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise DeviceCertificateUnusable(f"{self.certificate}, {self.key}: {reason}") from None
        return context

    def _fetch_chain(self) -> list[bytes]:
        """What the listener shows, over a connection that carries nothing else."""
        context = self._present(unverified_context())
        try:
            with (
                socket.create_connection((self.host, self.port), TIMEOUT_S) as plain,
                context.wrap_socket(plain, server_hostname=self.host) as tls,
            ):
                chain = _chain_of(tls)
                with contextlib.suppress(OSError):
                    self._take_leave(tls)
                return chain
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise Unreachable(f"{self.host}:{self.port}: {why}") from error

    def _take_leave(self, tls: ssl.SSLSocket) -> None:
        """CONNECT and DISCONNECT: who comes without a word counts as somebody to be refused."""
        client_id = self.certificate_sha256.encode()
        body = b"\0\4MQTT\4\2\0\74" + len(client_id).to_bytes(2, "big") + client_id
        tls.sendall(bytes((0x10, len(body))) + body)
        tls.recv(4)  # CONNACK
        tls.sendall(b"\xe0\0")


def _exchange(broker: Broker, topic: str, request: bytes) -> bytes:
    """Publish once subscribed, and return the first message that comes. Raises: Unreachable."""
    heard: queue.Queue[bytes | str] = queue.Queue(maxsize=1)

    def hear(first: bytes | str) -> None:
        with contextlib.suppress(queue.Full):  # what comes after the answer is of no use
            heard.put_nowait(first)

    connection = Connection(
        broker,
        Handlers(
            connected=lambda: connection.publish(Publish(topic, request)),
            message=lambda _topic, payload: hear(payload),
            ended=lambda ended: hear(ended.reason),
        ),
    )
    connection.open()
    try:
        first = heard.get(timeout=ANSWER_WITHIN_S)
    except queue.Empty:
        first = "no answer in time"
    finally:
        connection.close("answered")
    connection.join(TIMEOUT_S)
    if isinstance(first, str):
        raise Unreachable(f"{broker.host}:{broker.port}: {first}")
    return first


def _read_answer(payload: bytes) -> Enrolled | EnrollmentPending | EnrollmentRefused:
    try:
        match codec.decode(_Status, payload).status:
            case "active":
                return codec.decode(Enrolled, payload)
            case "pending":
                return codec.decode(EnrollmentPending, payload)
            case "refused":
                return codec.decode(EnrollmentRefused, payload)
            case other:
                raise BadAnswer(f"the answer has the unknown status {other[:40]!r}")
    except BadMessage as error:
        raise BadAnswer(error.message) from error


def _chain_of(tls: ssl.SSLSocket) -> list[bytes]:
    public = getattr(tls, "get_unverified_chain", None)
    if public is not None:  # Python 3.13 (gh-109109)
        chain: list[bytes] = public()
        return chain
    # The object below has had it since 3.10; Python 3.11 and 3.12 offer no other way to it.
    shown: list[Any] = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined] # private
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in shown]


def _split(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadEnrollmentUrl(f"{url[:200]!r} is not a URL") from None
    extra = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username
    if parts.scheme != "mqtts" or not parts.hostname or not port or extra:
        raise BadEnrollmentUrl(f"{url[:200]!r} is not mqtts://HOST:PORT")
    return parts.hostname, port


def _read_certificate(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None


def _no_password() -> str:
    # Otherwise OpenSSL would ask on the terminal.
    raise ValueError("the key is encrypted, which is not supported")
