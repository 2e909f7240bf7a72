"""HTTPS to the platform: its CAs only, no proxy, no redirect, every answer bounded in size."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from agent.errors import NotTheServer, Unreachable

TIMEOUT_S = 20.0
MAX_ANSWER_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, content type and body of an answer."""

    status: int
    content_type: str
    body: bytes

    def problem(self) -> tuple[str, str]:
        """Return type and detail of an RFC 9457 problem, as well as they can be told."""
        try:
            problem = json.loads(self.body)
            kind = str(problem.get("type", "")).rsplit("/", 1)[-1].rsplit(":", 1)[-1]
            return kind[:64], str(problem.get("detail") or problem.get("title") or "")[:300]
        except (ValueError, AttributeError):
            return "", f"HTTP status {self.status}"


def verified_context(ca_pems: Iterable[str]) -> ssl.SSLContext:
    """A TLS client that believes these CAs and nothing else, host name checked, TLS ≥ 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata="\n".join(ca_pems))
    return context


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
) -> Answer:
    """Send one request on a connection of its own. Raises: Unreachable, NotTheServer."""
    url = urlsplit(base_url)
    where = f"{url.hostname}:{url.port or 443}"
    connection = http.client.HTTPSConnection(
        url.hostname or "", url.port or 443, context=context, timeout=TIMEOUT_S
    )
    try:
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
    return Answer(response.status, response.headers.get_content_type(), data)


def _describe(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name does not resolve"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
