"""The agents' listener: a bounded number of strangers, each with a deadline."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable

import structlog

from broker.embedded.holding import Holding
from broker.embedded.limits import Limits
from broker.embedded.strangers import Strangers, network_of
from broker.errors import ListenFailed

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_log = structlog.get_logger()
_BACKLOG = 1024
# Reading ahead of an agent that is being slowed down costs memory for each of them.
_READ_AHEAD_BYTES = 4096
_ACCEPT_RETRY_S = 0.2


class Listener:
    """Accepts connections and completes TLS, then hands the streams to `serve`.

    asyncio's own server starts a handshake for everybody at once. Here at most `limits.pending`
    peers are between accept and admission; the rest wait in the kernel, and whoever dawdles makes
    room. Whom `strangers` gives no handshake is held without one. Has what amqtt expects of a
    server: `close` and `wait_closed`.
    """

    def __init__(
        self,
        sock: socket.socket,
        tls: Callable[[], ssl.SSLContext],
        serve: Callable[[Streams], Awaitable[None]],
        on_failure: Callable[[Exception, bytes], None],
        strangers: Strangers,
        limits: Limits,
    ) -> None:
        self._socket = sock
        self._tls = tls
        self._serve = serve
        self._on_failure = on_failure
        self._strangers = strangers
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self.holding = Holding(limits.held, limits.hold, self._loop)
        self._tasks: set[asyncio.Task[None]] = set()
        # Not admitted yet, oldest first, with the time of their accept.
        self._pending: dict[asyncio.Task[None], float] = {}
        self._settled = asyncio.Event()
        self._accepting = self._loop.create_task(self._accept(), name="accept")

    @property
    def address(self) -> tuple[str, int]:
        """Where the listener listens."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    @property
    def pending(self) -> int:
        """Peers that are not admitted yet."""
        return len(self._pending)

    def settle(self) -> None:
        """Note that the calling task's peer has been admitted or refused."""
        task = asyncio.current_task()
        if task is not None and self._pending.pop(task, None) is not None:
            self._settled.set()

    def close(self) -> None:
        """Accept no more; peers that are not admitted yet are dropped."""
        self._accepting.cancel()
        self._socket.close()
        self.holding.close()
        for task in list(self._pending):
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until every connection's task has finished; what takes too long is cancelled."""
        if self._tasks:
            timeout_s = self._limits.close_timeout.total_seconds()
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()

    async def _accept(self) -> None:
        while True:
            await self._make_room()
            try:
                sock, peer = await self._loop.sock_accept(self._socket)
            except OSError as error:
                # Out of descriptors, or the peer is gone already: neither ends the listener.
                _log.warning("accept_failed", error=str(error))
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            network = network_of(peer)
            if not self._strangers.may_try(network):
                self.holding.add(sock)
                continue
            task = self._loop.create_task(self._handle(sock, network))
            self._tasks.add(task)
            self._pending[task] = self._loop.time()
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._pending.pop(task, None) is not None:
            self._settled.set()

    async def _make_room(self) -> None:
        while len(self._pending) >= self._limits.pending:
            oldest, since = next(iter(self._pending.items()))
            patience_s = since + self._limits.evict_after.total_seconds() - self._loop.time()
            if patience_s <= 0:
                self._pending.pop(oldest)
                oldest.cancel()
                return
            self._settled.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._settled.wait()

    async def _handle(self, sock: socket.socket, network: bytes) -> None:
        try:
            streams = await self._handshake(sock)
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            self._on_failure(error, network)
            return
        except asyncio.CancelledError:
            self._on_failure(TimeoutError("evicted"), network)
            raise
        try:
            await self._serve(streams)
        finally:
            streams[1].transport.abort()

    async def _handshake(self, sock: socket.socket) -> Streams:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = asyncio.StreamReader(limit=_READ_AHEAD_BYTES, loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: protocol,
            sock,
            ssl=self._tls(),
            ssl_handshake_timeout=self._limits.handshake_timeout.total_seconds(),
            ssl_shutdown_timeout=self._limits.close_timeout.total_seconds(),
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 picks a free one. Raises: ListenFailed."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenFailed(f"{host}:{port} is not an address: {error}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ListenFailed(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return sock
