"""Uplinks over MQTT, from an embedded broker front: bounded intake, acks in order, publishes.

paho runs its network loop in a thread of its own; messages cross into the event loop through a
bounded buffer. When that is full the thread waits: the socket is not read, and the front feels it.
"""

import asyncio
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, cast

import paho.mqtt.client as mqtt
import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from sqlalchemy.ext.asyncio import AsyncSession

from hub.downlink import Downlink
from hub.uplink import Uplink
from tensorguard.protocol.topics import HUB_FILTERS

log = structlog.get_logger()

KEEPALIVE_S = 60
_CONNECT_S = (0.1, 0.5)
"""The pauses before the first connection: the front starts at the same time, and all wait."""
_RECONNECT_S = (0.1, 30)


class _CurrentTls:
    """What paho takes for an SSLContext; it may be another one at each connection."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.check_hostname = context.check_hostname

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        return self.context.wrap_socket(*arguments, **named)


class MqttUplink(AbstractAsyncContextManager["MqttUplink"]):
    """An `UplinkSource` over one MQTT 3.1.1 connection with mTLS; there is one hub at a front."""

    leads = True
    share = 1.0

    def __init__(
        self,
        *,
        host: str,
        port: int,
        client_id: str,
        tls: ssl.SSLContext,
        clock: Callable[[], datetime],
        intake_limit: int,
        downlink_limit: int,
    ) -> None:
        self._address = (host, port)
        self._tls = _CurrentTls(tls)
        self._clock = clock
        self._room = threading.Semaphore(intake_limit)
        self._buffer: deque[Uplink] = deque()
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._signalled = False
        self._stopping = threading.Event()
        self._connection = 0
        self._ending = threading.Lock()
        self.connected = asyncio.Event()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True, manual_ack=True
        )
        self._client.max_queued_messages_set(downlink_limit)
        self._client.max_inflight_messages_set(500)
        self._pause(*_CONNECT_S)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message

    async def __aenter__(self) -> "MqttUplink":
        self._client.tls_set_context(cast("ssl.SSLContext", self._tls))
        self._client.connect_async(*self._address, keepalive=KEEPALIVE_S)
        self._client.loop_start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def use(self, tls: ssl.SSLContext) -> None:
        """See UplinkSource; the present connection stays."""
        self._tls.context = tls

    def _pause(self, least_s: float, most_s: float) -> None:
        """How long to wait after a connection that failed: twice as long each time."""
        self._client.reconnect_delay_set(least_s, most_s)  # type: ignore[arg-type] # paho takes any number

    # In paho's thread

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            log.warning("uplink_refused", reason=str(reason))
            return
        self._pause(*_RECONNECT_S)
        client.subscribe([(name, 1) for name in HUB_FILTERS])

    def _on_subscribe(
        self, _client: mqtt.Client, _data: Any, _mid: int, reasons: Any, _properties: Any
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            log.error("uplink_not_subscribed", reasons=[str(reason) for reason in reasons])
            return
        self._loop.call_soon_threadsafe(self.connected.set)
        log.info("uplink_connected", front=f"{self._address[0]}:{self._address[1]}")

    def _on_disconnect(
        self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        # What came over this connection must not be acked on the next: its ids mean others there.
        # paho forgets unsent acks before it connects again.
        with self._ending:
            self._connection += 1
        if self._stopping.is_set():
            return
        self._loop.call_soon_threadsafe(self.connected.clear)
        log.warning("uplink_lost", reason=str(reason))

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        while not self._room.acquire(timeout=1.0):
            if self._stopping.is_set():
                return
        try:
            topic = message.topic
        except UnicodeDecodeError:  # raised, it would end the thread; so: a dead letter
            topic = "(not UTF-8)"
        self._buffer.append(
            Uplink(
                topic,
                bytes(message.payload),
                self._clock(),
                (self._connection, message.mid, message.qos),
            )
        )
        if not self._signalled:
            self._signalled = True
            self._loop.call_soon_threadsafe(self._arrived.set)

    # In the event loop

    async def receive(self, most: int, wait_s: float) -> list[Uplink]:
        """See UplinkSource."""
        deadline = self._loop.time() + wait_s
        while len(self._buffer) < most:
            self._arrived.clear()
            self._signalled = False
            left = deadline - self._loop.time()
            if len(self._buffer) >= most or left <= 0:
                break
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                break
        return [self._buffer.popleft() for _ in range(min(most, len(self._buffer)))]

    def finish(self) -> None:
        """See UplinkSource; what is not acked stays with the front, which cannot tell."""

    async def fence(self, session: AsyncSession, uplinks: Sequence[Uplink]) -> None:
        """See UplinkSource; nobody else is sent the same."""

    def ack(self, uplinks: Sequence[Uplink]) -> None:
        """See UplinkSource; those of a connection that has ended are not acked on the new one."""
        with self._ending:
            for uplink in uplinks:
                connection, mid, qos = uplink.receipt
                if connection == self._connection:
                    self._client.ack(mid, qos)
        if uplinks:
            self._room.release(len(uplinks))

    def publish(self, downlinks: Sequence[Downlink]) -> int:
        """See UplinkSource."""
        dropped = 0
        for downlink in downlinks:
            info = self._client.publish(downlink.topic, downlink.payload, qos=1)
            if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                dropped += 1
        if dropped:
            log.warning("downlinks_dropped", count=dropped)
        return dropped
