"""The way to one hub: a bounded queue, and a bounded number of messages that it has to ack."""

import asyncio

import structlog

from broker.embedded import packets
from broker.embedded.connection import Connection
from broker.embedded.limits import Limits
from broker.embedded.metrics import FrontMetrics
from broker.front import UpMessage
from broker.session import End

_log = structlog.get_logger()
# Enough to fill a few TLS records; more only delays the first of them.
_BATCH_MESSAGES = 64
_BATCH_BYTES = 64 * 1024


class _BoundedQueue(asyncio.Queue[UpMessage]):
    """A queue that is full by number or by bytes (asyncio documents these hooks for subclasses)."""

    def __init__(self, messages: int, size_bytes: int) -> None:
        super().__init__(maxsize=messages)
        self._limit_bytes = size_bytes
        self._bytes = 0

    def full(self) -> bool:
        return super().full() or self._bytes >= self._limit_bytes

    def _put(self, item: UpMessage) -> None:
        self._bytes += len(item.payload)
        super()._put(item)

    def _get(self) -> UpMessage:
        item: UpMessage = super()._get()
        self._bytes -= len(item.payload)
        return item


class HubLink:
    """Carries messages to one hub in order; QoS 1 until the hub, after commit, acks."""

    def __init__(self, connection: Connection, limits: Limits, metrics: FrontMetrics) -> None:
        self.connection = connection
        self._limits = limits
        self._metrics = metrics
        self._queue = _BoundedQueue(limits.hub_queue_messages, limits.hub_queue_bytes)
        self._in_flight: set[int] = set()
        self._packet_id = 0
        self._acked = asyncio.Event()
        self._full_since: float | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name=f"to-{connection.client_id}")

    @property
    def queued(self) -> int:
        """Messages that wait."""
        return self._queue.qsize()

    @property
    def in_flight(self) -> int:
        """Messages that the hub has not acked."""
        return len(self._in_flight)

    def offer(self, message: UpMessage) -> bool:
        """Queue without waiting; False where there is no room."""
        if self._closed or self._queue.full():
            return False
        self._queue.put_nowait(message)
        return True

    async def put(self, message: UpMessage) -> bool:
        """Queue, waiting for room as long as the front may hold an agent; False where lost."""
        if self.offer(message):
            return True
        if self._closed:
            return False
        if self._full_since is None:
            self._full_since = self._loop.time()
            _log.warning("hub_queue_filled", hub=self.connection.client_id, messages=self.queued)
        patience_s = self._full_since + self._limits.hub_stall.total_seconds() - self._loop.time()
        if patience_s <= 0:
            return False
        try:
            async with asyncio.timeout(patience_s):
                await self._queue.put(message)
        except TimeoutError:
            return False
        if self._closed:
            # Taken out again, which wakes the next one that waits: nobody empties the queue now.
            self._queue.get_nowait()
        return not self._closed

    def acked(self, packet_id: int) -> None:
        """Note the hub's PUBACK."""
        self._in_flight.discard(packet_id)
        self._acked.set()

    def close(self) -> int:
        """Stop; return how many messages are lost with the hub (senders repeat what matters)."""
        self._closed = True
        self._task.cancel()
        lost = self.queued + self.in_flight
        while not self._queue.empty():
            self._queue.get_nowait()
        self._in_flight.clear()
        return lost

    async def _run(self) -> None:
        try:
            while True:
                batch = bytearray(await self._encode(await self._queue.get()))
                number = 1
                while number < _BATCH_MESSAGES and len(batch) < _BATCH_BYTES and self._has_next():
                    batch += await self._encode(self._queue.get_nowait())
                    number += 1
                if self._queue.qsize() < self._limits.hub_queue_messages // 2:
                    self._full_since = None
                await self.connection.send_all(bytes(batch))
                self._metrics.up_out.inc(number)
        except OSError:
            self.connection.end(End.LOST)

    def _has_next(self) -> bool:
        return not self._queue.empty() and len(self._in_flight) < self._limits.hub_in_flight

    async def _encode(self, message: UpMessage) -> bytes:
        if message.qos == 0:
            return packets.publish(message.topic, message.payload)
        while len(self._in_flight) >= self._limits.hub_in_flight:
            self._acked.clear()
            await self._acked.wait()
        return packets.publish(message.topic, message.payload, self._next_packet_id())

    def _next_packet_id(self) -> int:
        # In flight are far fewer than the 65,535 ids, so a free one is near.
        while True:
            self._packet_id = self._packet_id % 65535 + 1
            if self._packet_id not in self._in_flight:
                self._in_flight.add(self._packet_id)
                return self._packet_id
