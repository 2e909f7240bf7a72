"""`/metrics` and `/healthz` of a front, on an address that only operators reach."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from broker.errors import ListenFailed

_REQUEST_LINE_BYTES = 1024
_REQUEST_WITHIN_S = 5.0


@asynccontextmanager
async def serving_metrics(
    address: tuple[str, int], registry: CollectorRegistry, is_healthy: Callable[[], bool]
) -> AsyncIterator[tuple[str, int]]:
    """Answer GET /metrics and GET /healthz; yields the address. Raises: ListenFailed."""

    def answer(path: str) -> tuple[HTTPStatus, str, bytes]:
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry)
        if path == "/healthz":
            if is_healthy():
                return HTTPStatus.OK, "text/plain", b"ok\n"
            return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"deny set is stale\n"
        return HTTPStatus.NOT_FOUND, "text/plain", b"/metrics or /healthz\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_WITHIN_S):
                line = await reader.readuntil(b"\r\n")
                words = line.split()
                path = words[1].decode("ascii", "replace") if len(words) == 3 else ""
                status, kind, body = answer(path)
                head = f"HTTP/1.0 {status} {status.phrase}\r\nContent-Type: {kind}\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
                # Closed with the request unread, the answer would be lost in a reset.
                writer.write_eof()
                await reader.read()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that went away or spoke something else
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(serve, *address, limit=_REQUEST_LINE_BYTES)
    except OSError as error:
        host, port = address
        raise ListenFailed(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            hint="Stop what holds the port, or choose another address in TG_BROKER_METRICS.",
        ) from error
    async with server:
        yield server.sockets[0].getsockname()[:2]
