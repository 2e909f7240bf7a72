"""`/metrics` of a hub, on an address that only operators reach."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import start_http_server

from hub.errors import HubError


class ListenFailed(HubError):
    """The address of the metrics cannot be listened on."""

    code = "listen-failed"
    hint = "Stop what holds the port, or choose another address in TG_HUB_METRICS."


@asynccontextmanager
async def serving_metrics(address: str | None) -> AsyncIterator[int | None]:
    """Answer GET /metrics at host:port, if one is given; yields the port. Raises: ListenFailed."""
    if address is None:
        yield None
        return
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]") or "127.0.0.1")
    except (OSError, OverflowError, ValueError) as error:
        raise ListenFailed(f"cannot listen on {address}: {error}") from error
    try:
        yield server.server_port
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await asyncio.to_thread(thread.join)
