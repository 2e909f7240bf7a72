"""MQTT 3.1.1 packets: bounded reading, and the few that are hot enough to be coded by hand.

CONNECT, SUBSCRIBE and UNSUBSCRIBE go through amqtt's codec, over exactly the bytes of one packet:
read from the socket itself it would believe inner lengths that reach into the next packet.
"""

import asyncio
from typing import Any, Final, NamedTuple

from amqtt.adapters import BufferReader
from amqtt.errors import AMQTTError, CodecError, MQTTError, NoDataError
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.packet import (
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    MQTTFixedHeader,
)
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket

from broker.errors import MalformedPacket, OversizePacket

SUBSCRIPTION_REFUSED: Final = 0x80
PINGRESP: Final = b"\xd0\x00"
# The flags of each packet that a client may send (section 2.2.2); PUBLISH has its own.
_FLAGS: Final = {
    int(CONNECT): 0,
    int(PUBACK): 0,
    int(SUBSCRIBE): 2,
    int(UNSUBSCRIBE): 2,
    int(PINGREQ): 0,
    int(DISCONNECT): 0,
}
_PUBLISH: Final = int(PUBLISH)


class Packet(NamedTuple):
    """One packet: its type, the four flags, and everything after the fixed header."""

    kind: int
    flags: int
    body: bytes


class Publish(NamedTuple):
    """A PUBLISH taken apart; `packet_id` is 0 at QoS 0."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    packet_id: int


class Connect(NamedTuple):
    """What a CONNECT asks for."""

    client_id: str
    clean_session: bool
    keep_alive_s: int
    protocol: tuple[str, int]
    will_topic: str | None
    will_payload: bytes
    will_qos: int
    will_retain: bool


async def read_packet(reader: asyncio.StreamReader, limit_bytes: int) -> Packet:
    """Return the next packet of at most `limit_bytes` after its fixed header.

    Raises: asyncio.IncompleteReadError at the end, OSError, MalformedPacket, OversizePacket.
    """
    kind_and_flags, length = await reader.readexactly(2)
    if length & 0x80:
        length &= 0x7F
        for shift in (7, 14, 21):
            digit = (await reader.readexactly(1))[0]
            length |= (digit & 0x7F) << shift
            if not digit & 0x80:
                break
        else:
            raise MalformedPacket("the remaining length has more than four bytes")
    kind, flags = kind_and_flags >> 4, kind_and_flags & 0x0F
    if kind != _PUBLISH and _FLAGS.get(kind) != flags:
        raise MalformedPacket(f"no client sends packet type {kind} with flags {flags:#x}")
    if length > limit_bytes:
        raise OversizePacket(f"a packet of {length} bytes; the limit is {limit_bytes}")
    return Packet(kind, flags, await reader.readexactly(length) if length else b"")


def decode_publish(packet: Packet) -> Publish:
    """Take a PUBLISH apart (section 3.3). Raises: MalformedPacket."""
    flags, body = packet.flags, packet.body
    qos = flags >> 1 & 3
    start = 2 + int.from_bytes(body[:2], "big")
    end = start + 2 if qos else start
    if len(body) < max(end, 2) or qos == 3:
        raise MalformedPacket("a PUBLISH is cut short or of no known QoS")
    try:
        topic = body[2:start].decode()
    except UnicodeDecodeError:
        raise MalformedPacket("a topic is not UTF-8") from None
    packet_id = int.from_bytes(body[start:end], "big")
    if (qos and not packet_id) or "\0" in topic:
        raise MalformedPacket("a PUBLISH with packet id 0, or NUL in its topic")
    return Publish(topic, body[end:], qos, bool(flags & 1), packet_id)


def decode_packet_id(packet: Packet) -> int:
    """Return the packet id of a PUBACK. Raises: MalformedPacket."""
    if len(packet.body) != 2:
        raise MalformedPacket("a PUBACK that is not two bytes")
    return int.from_bytes(packet.body, "big")


def decode_connect(packet: Packet) -> Connect:
    """Take a CONNECT apart (section 3.1). Raises: MalformedPacket."""
    if packet.kind != CONNECT:
        raise MalformedPacket("the first packet is not CONNECT")
    decoded = _decode(ConnectPacket, packet)
    header, payload = decoded.variable_header, decoded.payload
    # amqtt invents a client id where there is none; the caller compares it with the certificate's.
    client_id = "" if payload.client_id_is_random else payload.client_id
    if header.reserved_flag or (header.will_flag and payload.will_message is None):
        raise MalformedPacket("a CONNECT with the reserved flag, or without the will it announces")
    return Connect(
        client_id=client_id,
        clean_session=header.clean_session_flag,
        keep_alive_s=header.keep_alive,
        protocol=(header.proto_name, header.proto_level),
        will_topic=payload.will_topic if header.will_flag else None,
        will_payload=bytes(payload.will_message or b""),
        will_qos=header.will_qos,
        will_retain=header.will_retain_flag,
    )


def decode_subscribe(packet: Packet) -> tuple[int, list[tuple[str, int]]]:
    """Return packet id and (filter, QoS) pairs, at least one. Raises: MalformedPacket."""
    decoded = _decode(SubscribePacket, packet)
    wanted: list[tuple[str, int]] = list(decoded.payload.topics)
    # A filter that amqtt could not read to its end is left out; counting the bytes shows it.
    read_bytes = 2 + sum(3 + len(wish.encode()) for wish, _ in wanted)
    if not wanted or read_bytes != len(packet.body) or any(qos > 2 for _, qos in wanted):
        raise MalformedPacket("a SUBSCRIBE without filters, or cut short")
    return int(decoded.variable_header.packet_id), wanted


def decode_unsubscribe(packet: Packet) -> tuple[int, list[str]]:
    """Return packet id and filters. Raises: MalformedPacket."""
    decoded = _decode(UnsubscribePacket, packet)
    return int(decoded.variable_header.packet_id), list(decoded.payload.topics)


def connack(return_code: int) -> bytes:
    """Encode CONNACK; there never is a session to resume (section 3.2)."""
    return bytes((0x20, 2, 0, return_code))


def puback(packet_id: int) -> bytes:
    """Encode PUBACK (section 3.4)."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def suback(packet_id: int, codes: list[int]) -> bytes:
    """Encode SUBACK with one return code a filter (section 3.9)."""
    return b"\x90" + _length(2 + len(codes)) + packet_id.to_bytes(2, "big") + bytes(codes)


def unsuback(packet_id: int) -> bytes:
    """Encode UNSUBACK (section 3.11)."""
    return b"\xb0\x02" + packet_id.to_bytes(2, "big")


def publish(topic: str, payload: bytes, packet_id: int = 0) -> bytes:
    """Encode PUBLISH, at QoS 1 where there is a packet id, else at QoS 0 (section 3.3)."""
    name = topic.encode()
    rest = len(name).to_bytes(2, "big") + name
    if packet_id:
        rest += packet_id.to_bytes(2, "big")
    head = b"\x32" if packet_id else b"\x30"
    return b"".join((head, _length(len(rest) + len(payload)), rest, payload))


def _length(length: int) -> bytes:
    # Section 2.2.3: seven bits a byte, the eighth says that another follows.
    digits = bytearray()
    while length > 0x7F:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    digits.append(length)
    return bytes(digits)


def _decode(packet_class: Any, packet: Packet) -> Any:
    header = MQTTFixedHeader(packet.kind, packet.flags, len(packet.body))
    reading = packet_class.from_stream(BufferReader(packet.body), fixed_header=header)
    # Over a buffer amqtt's coroutine never waits: one step takes it to its end.
    try:
        reading.send(None)
    except StopIteration as done:
        return done.value
    except (AMQTTError, MQTTError, CodecError, NoDataError, ValueError, UnicodeError) as error:
        raise MalformedPacket(f"{packet_class.__name__}: {str(error)[:200]}") from None
    reading.close()
    raise MalformedPacket(f"{packet_class.__name__}: more was expected")
