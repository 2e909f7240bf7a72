"""The connection to the front's node: made again whenever it is lost, never believed too early."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

import nats
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from broker.errors import FrontError
from broker.nats.errors import NodeUnreachable

_log = structlog.get_logger()
_CONNECT_WITHIN_S: Final = 5
_OPEN_WITHIN_S: Final = 15.0
_CLOSE_WITHIN_S: Final = 5.0
_ANSWER_WITHIN_S: Final = 2.0
# A node that is cut off is known to be so after three of these.
_PING_EVERY_S: Final = 2
_RETRY_S: Final = (0.1, 5.0)
_SAY_EVERY: Final = 20
LOST: Final = (NatsError, OSError, TimeoutError, asyncio.IncompleteReadError)
"""What nats-py raises where the other side is not there or says no."""


class Link:
    """Keeps one connection to one node; `on_up` makes it of use, `on_down` says it is gone."""

    def __init__(
        self,
        url: str,
        name: str,
        tls: Callable[[], ssl.SSLContext],
        on_up: Callable[[Client], Awaitable[None]],
        on_down: Callable[[], None],
    ) -> None:
        self._url = url
        self._name = name
        self._tls = tls
        self._on_up = on_up
        self._on_down = on_down
        self._client: Client | None = None
        self.is_up = asyncio.Event()

    @property
    def client(self) -> Client:
        """The connection, once it is of use. Raises: NodeUnreachable."""
        if self._client is None or not self._client.is_connected or not self.is_up.is_set():
            raise NodeUnreachable(f"no connection to {self._url}")
        return self._client

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        failures = 0
        while True:
            gone = asyncio.Event()
            try:
                # nats-py has waits without an end where a server hangs up in the middle.
                async with asyncio.timeout(_OPEN_WITHIN_S):
                    client = await self._connect(gone)
                try:
                    await self._on_up(client)
                    self._client, failures = client, 0
                    self.is_up.set()
                    _log.info("nats_node_connected", url=self._url, server=server_id(client))
                    await gone.wait()
                finally:
                    await self._leave(client)
            except (FrontError, *LOST) as error:
                failures += 1
                if failures % _SAY_EVERY == 1:
                    reason = str(error) or type(error).__name__
                    _log.warning("nats_node_not_reached", url=self._url, error=reason)
            first, most = _RETRY_S
            pause_s = min(most, first * 2.0 ** min(failures, 10))
            await asyncio.sleep(random.uniform(first / 2, pause_s))  # noqa: S311  spreads load only

    async def _connect(self, gone: asyncio.Event) -> Client:
        async def closed() -> None:
            gone.set()

        async def failed(error: Exception) -> None:
            _log.debug("nats_connection_failed", error=str(error) or type(error).__name__)

        client = await nats.connect(
            self._url,
            name=self._name,
            tls=self._tls(),
            tls_handshake_first=True,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0.1,
            connect_timeout=_CONNECT_WITHIN_S,
            ping_interval=_PING_EVERY_S,
            max_outstanding_pings=2,
            closed_cb=closed,
            disconnected_cb=closed,
            error_cb=failed,
        )
        # A server that refuses hangs up after the client believes it is connected.
        await client.flush(_CONNECT_WITHIN_S)
        return client

    async def _leave(self, client: Client) -> None:
        was_up, self._client = self.is_up.is_set(), None
        self.is_up.clear()
        if was_up:
            _log.warning("nats_node_lost", url=self._url)
            self._on_down()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await client.close()


async def ask(client: Client, subject: str, body: bytes) -> bytes:
    """Request, and return the answer's payload. Raises: NodeUnreachable."""
    try:
        answer = await client.request(subject, body, timeout=_ANSWER_WITHIN_S)
    except LOST as error:
        end_if_cancelled()
        reason = str(error) or type(error).__name__
        raise NodeUnreachable(f"no answer to {subject}: {reason}") from None
    end_if_cancelled()
    return answer.data


def end_if_cancelled() -> None:
    """End the task that was told to end: while nats-py waits for an answer this may be swallowed.

    Its asyncio.wait_for returns an answer that came at the same moment (Python < 3.12), and where
    its connection closes it makes an error of its own of a cancellation.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def server_id(client: Client) -> str:
    """The id of the server at the other end, as its INFO says (nats-py keeps it to itself)."""
    info: dict[str, Any] = client._server_info  # no accessor in nats-py 2.16
    return str(info["server_id"])
