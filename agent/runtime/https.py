"""HTTPS to the platform: its CAs only, no proxy, no redirect, every answer bounded in size."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from agent.errors import NotTheServer, Unreachable

TIMEOUT_S = 20.0
# X509_V_FLAG_NO_CHECK_TIME of openssl/x509_vfy.h, for which Python's ssl has no name.
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
MAX_ANSWER_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what to do, in the platform's words; each may be empty."""

    kind: str
    detail: str
    hint: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, content type and body of an answer, and when to come back or where to go instead."""

    status: int
    content_type: str
    body: bytes
    retry_after_s: float | None = None
    location: str = ""

    def problem(self) -> Problem:
        """Return the RFC 9457 problem in the body, as well as it can be told."""
        try:
            found = json.loads(self.body)
            kind = str(found.get("type", "")).rsplit("/", 1)[-1].rsplit(":", 1)[-1]
            detail = str(found.get("detail") or found.get("title") or "")
            return Problem(kind[:64], _line(detail), _line(str(found.get("hint") or "")))
        except (ValueError, AttributeError):
            return Problem("", f"HTTP status {self.status}", "")


def verified_context(ca_pems: Iterable[str], *, clock_is_behind: bool = False) -> ssl.SSLContext:
    """A TLS client that believes these CAs and nothing else, host name checked, TLS ≥ 1.2.

    OpenSSL judges certificates by the system clock. Where that is known to be behind, it judges all
    but the time, and `check_validity` does that by agent time after the handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata="\n".join(ca_pems))
    if clock_is_behind:
        context.verify_flags |= _NO_CHECK_TIME
    return context


def check_validity(tls: ssl.SSLSocket, now: datetime) -> None:
    """Refuse a server whose certificate has expired by agent time. Raises: NotTheServer."""
    certificate = tls.getpeercert() or {}
    not_after = str(certificate.get("notAfter", "Jan  1 00:00:00 1970 GMT"))
    if ssl.cert_time_to_seconds(not_after) <= now.timestamp():
        raise NotTheServer(f"the server's certificate expired on {not_after}")


def unverified_context() -> ssl.SSLContext:
    """A TLS client that believes anyone: for the one request whose answer is pinned."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def request(
    context: ssl.SSLContext,
    base_url: str,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    agent_time: datetime | None = None,
) -> Answer:
    """Send one request on a connection of its own.

    `agent_time` is for a context made with `clock_is_behind`. Raises: Unreachable, NotTheServer.
    """
    url = urlsplit(base_url)
    where = f"{url.hostname}:{url.port or 443}"
    connection = http.client.HTTPSConnection(
        url.hostname or "", url.port or 443, context=context, timeout=TIMEOUT_S
    )
    try:
        connection.connect()
        if agent_time is not None:
            check_validity(connection.sock, agent_time)
        connection.request(
            method,
            url.path.rstrip("/") + path,
            body=body,
            headers={} if headers is None else headers,
        )
        response = connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES + 1)
    except ssl.SSLCertVerificationError as error:
        raise NotTheServer(f"{where}: {error.verify_message}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{where}: {_describe(error)}") from error
    finally:
        connection.close()
    if len(data) > MAX_ANSWER_BYTES:
        raise Unreachable(f"{where} answered more than {MAX_ANSWER_BYTES} bytes")
    kind, later = response.headers.get_content_type(), response.headers.get("Retry-After", "")
    location = response.headers.get("Location", "")
    return Answer(
        response.status, kind, data, float(later) if later.isdecimal() else None, location
    )


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def _describe(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name does not resolve"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
