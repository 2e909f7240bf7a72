"""What is said after CONNACK: publishes, subscriptions and pings, one packet after the other."""

import asyncio
from collections.abc import Callable

from amqtt.mqtt.packet import DISCONNECT, PINGREQ, PUBACK, PUBLISH, SUBSCRIBE, UNSUBSCRIBE

from broker.embedded import packets
from broker.embedded.connection import Connection
from broker.embedded.limits import Limits
from broker.embedded.metrics import FrontMetrics
from broker.embedded.packets import Packet, Publish
from broker.embedded.routing import Router
from broker.errors import MalformedPacket, OversizePacket
from broker.front import UpMessage
from broker.reports import Operation, Reports
from broker.session import End

Relay = Callable[[Connection, Publish], UpMessage]


class Conversation:
    """Serves one admitted connection until it ends.

    One packet is finished before the next is read: not reading is how the front slows a peer down.
    """

    def __init__(
        self,
        connection: Connection,
        router: Router,
        reports: Reports,
        metrics: FrontMetrics,
        limits: Limits,
        relay: Relay,
    ) -> None:
        self._connection = connection
        self._router = router
        self._reports = reports
        self._metrics = metrics
        self._limits = limits
        self._relay = relay
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Read and answer until the end, which is then recorded in the connection."""
        connection = self._connection
        try:
            while connection.ended is None:
                packet = await packets.read_packet(connection.reader, self._limits.packet_bytes)
                connection.heard_at = self._loop.time()
                # Ended while we waited: what had been buffered before the kick says nothing more.
                if connection.ended is None:
                    await self._answer(packet)
        except (asyncio.IncompleteReadError, OSError):
            connection.end(End.LOST)
        except OversizePacket:
            self._reports.denied("oversize", "oversize-packet", connection.peer.identity)
            connection.end(End.OVERSIZE)
        except MalformedPacket:
            connection.end(End.MALFORMED)

    async def _answer(self, packet: Packet) -> None:
        if packet.kind == PUBLISH:
            await self._on_publish(packets.decode_publish(packet))
        elif packet.kind == PUBACK:
            self._on_puback(packets.decode_packet_id(packet))
        elif packet.kind == PINGREQ:
            self._connection.send(packets.PINGRESP)
        elif packet.kind == SUBSCRIBE:
            self._check_control_size(packet)
            self._on_subscribe(*packets.decode_subscribe(packet))
        elif packet.kind == UNSUBSCRIBE:
            self._check_control_size(packet)
            self._on_unsubscribe(*packets.decode_unsubscribe(packet))
        elif packet.kind == DISCONNECT:
            self._connection.end(End.DISCONNECT)
        else:
            raise MalformedPacket("a second CONNECT (section 3.1.0)")

    def _check_control_size(self, packet: Packet) -> None:
        if len(packet.body) > self._limits.control_bytes:
            raise OversizePacket(f"a control packet of {len(packet.body)} bytes")

    async def _on_publish(self, message: Publish) -> None:
        connection = self._connection
        if message.qos == 2:
            # Nobody needs it, and refusing it silently would leave the peer waiting for PUBREC.
            self._deny("publish", "qos-2", message.topic)
            raise MalformedPacket("QoS 2 is not offered")
        if message.retain:
            self._deny("retain", "retained-message", message.topic)
        elif not connection.rights.may_publish(message.topic):
            self._deny("publish", "foreign-topic", message.topic)
        elif connection.is_hub:
            self._metrics.down_in.inc()
            await self._router.deliver_down(message.topic, message.payload)
        else:
            await self._take_up(message)
        # MQTT 3.1.1 cannot refuse a publish (section 3.3.5.2): what is denied is acked as well.
        if message.qos:
            connection.send(packets.puback(message.packet_id))

    async def _take_up(self, message: Publish) -> None:
        connection = self._connection
        self._metrics.up_in.inc()
        up = self._relay(connection, message)
        if not self._router.offer_up(connection.client_id, up, or_drop=False):
            with connection.held():
                await self._router.put_up(connection.client_id, up)
        pause_s = connection.take_token()
        if pause_s > 0:
            with connection.held():
                await asyncio.sleep(pause_s)

    def _on_puback(self, packet_id: int) -> None:
        link = self._router.find_link(self._connection)
        if link is not None:
            link.acked(packet_id)

    def _on_subscribe(self, packet_id: int, wanted: list[tuple[str, int]]) -> None:
        connection = self._connection
        codes = []
        granted = []
        for topic_filter, qos in wanted:
            if topic_filter in connection.rights.subscribe:
                codes.append(min(qos, 1 if connection.is_hub else 0))
                granted.append(topic_filter)
            else:
                codes.append(packets.SUBSCRIPTION_REFUSED)
                self._deny("subscribe", "foreign-topic", topic_filter)
        connection.send(packets.suback(packet_id, codes))
        if connection.ended is None:
            for topic_filter in granted:
                self._router.subscribe(connection, topic_filter)

    def _on_unsubscribe(self, packet_id: int, filters: list[str]) -> None:
        for topic_filter in filters:
            if topic_filter in self._connection.rights.subscribe:
                self._router.unsubscribe(self._connection, topic_filter)
        self._connection.send(packets.unsuback(packet_id))

    def _deny(self, operation: Operation, reason: str, topic: str) -> None:
        self._reports.denied(operation, reason, self._connection.peer.identity, topic=topic)
        if self._connection.count_denials(1):
            self._connection.end(End.FLOODED)
