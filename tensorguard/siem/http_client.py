"""POST over HTTPS: guarded address, certificate checked against the name, no redirects, in time."""

import asyncio
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore

from tensorguard.siem.address_guard import AddressGuard
from tensorguard.siem.errors import BadSink

MAX_ANSWER_BYTES: Final = 64 * 1024
_IDLE_S: Final = 30.0
_CONNECT_S: Final = 10.0
_USER_AGENT: Final = "TensorGuard"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A status, headers in lower case, and the beginning of the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def tls_context(ca_pem: str | None) -> ssl.SSLContext:
    """Return what checks a destination: the system's CAs, or those given. Raises: BadSink."""
    try:
        context = ssl.create_default_context(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise BadSink(f"ca_pem holds no certificates: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python sets it before 3.11.4: then a connection that was cut looks like one closed in order.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def check_url(url: str) -> None:
    """Refuse what is not plainly https://host[:port]/path. Raises: BadSink."""
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or not url.isascii() or not url.isprintable() or " " in url:
        raise BadSink("the URL has to be https://host/path")
    if parts.username is not None or parts.fragment:
        raise BadSink("the URL holds a user, a password or a fragment; a secret goes elsewhere")


class _GuardedBackend(httpcore.AnyIOBackend):
    """Connects to addresses that the guard has let pass, whatever the name means a moment later."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore's own signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of the host's addresses that answers."""
        try:
            addresses = await self._guard.pin(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved") from error
        for address in addresses[:-1]:
            try:
                return await super().connect_tcp(address, port, timeout=timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await super().connect_tcp(addresses[-1], port, timeout=timeout)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore's own signature
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never."""
        raise httpcore.ConnectError("a sink is no local socket")


class HttpClient:
    """One connection to one origin, kept while it is used."""

    def __init__(self, guard: AddressGuard, tls: ssl.SSLContext, *, timeout_s: float) -> None:
        self._guard = guard
        self._tls = tls
        self._timeout_s = timeout_s
        self._pool = self._new_pool()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> HttpAnswer:
        """Send one request and read the beginning of its answer, whatever its status.

        Raises: TimeoutError, httpcore's errors, ssl.SSLError, OSError, AddressRefused: `failed`
        translates them.
        """
        given = [
            ("Host", urlsplit(url).netloc),
            ("User-Agent", _USER_AGENT),
            ("Content-Length", str(len(body))),
            *headers.items(),
        ]
        connect_s = min(_CONNECT_S, self._timeout_s)
        limits = {"connect": connect_s, "pool": connect_s}
        async with asyncio.timeout(self._timeout_s):
            async with self._pool.stream(
                "POST",
                url,
                headers=_encoded(given),
                content=body,
                extensions={"timeout": limits},
            ) as response:
                found = bytearray()
                async for chunk in response.aiter_stream():
                    found += chunk
                    if len(found) >= MAX_ANSWER_BYTES:
                        break
                names = {
                    name.decode("latin-1").lower(): value.decode("latin-1")
                    for name, value in response.headers
                }
                return HttpAnswer(response.status, names, bytes(found[:MAX_ANSWER_BYTES]))

    async def close(self) -> None:
        """End the connection; the next request makes a new one."""
        pool, self._pool = self._pool, self._new_pool()
        await pool.aclose()

    def _new_pool(self) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=1,
            keepalive_expiry=_IDLE_S,
            network_backend=_GuardedBackend(self._guard),
        )


def _encoded(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
