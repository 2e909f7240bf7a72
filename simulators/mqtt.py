"""As much of MQTT 3.1.1 as an agent needs: CONNECT, SUBSCRIBE, PUBLISH, PINGREQ, DISCONNECT.

paho connects and shakes hands blocking and keeps its TLS context: 66 KiB a connection, measured,
where a simulated agent may have 60. So this speaks the wire itself. The reference agent uses paho.
Section numbers are of https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

CONNACK: Final = 0x20
NOT_AUTHORIZED: Final = 5  # its return code (section 3.2.2.3)
PUBLISH: Final = 0x30
PUBACK: Final = 0x40
SUBACK: Final = 0x90
PINGRESP: Final = 0xD0
MAX_PACKET_BYTES: Final = 256 * 1024

PINGREQ_PACKET: Final = b"\xc0\x00"
DISCONNECT_PACKET: Final = b"\xe0\x00"
_CLEAN_SESSION = 0x02
_WILL_QOS_1 = 0x04 | 0x08


class BadPacket(Exception):
    """The broker sent what is not MQTT 3.1.1."""


class Packet(NamedTuple):
    """Type and flags of the fixed header, and everything after the remaining length."""

    first: int
    body: bytes

    @property
    def kind(self) -> int:
        """The packet type, in the upper four bits."""
        return self.first & 0xF0


def encode_connect(
    client_id: str, *, keep_alive_s: int, will_topic: str, will_payload: bytes
) -> bytes:
    """CONNECT with clean session and a will at QoS 1, not retained (3.1)."""
    flags = _CLEAN_SESSION | _WILL_QOS_1
    body = _text("MQTT") + bytes([4, flags]) + keep_alive_s.to_bytes(2, "big")
    body += _text(client_id) + _text(will_topic) + _binary(will_payload)
    return _packet(0x10, body)


def encode_subscribe(packet_id: int, filters: Sequence[str]) -> bytes:
    """SUBSCRIBE at QoS 0 (3.8)."""
    body = packet_id.to_bytes(2, "big") + b"".join(_text(one) + b"\x00" for one in filters)
    return _packet(0x82, body)


def encode_publish(packet_id: int, topic: str, payload: bytes) -> bytes:
    """PUBLISH at QoS 1, not retained (3.3)."""
    return _packet(0x32, _text(topic) + packet_id.to_bytes(2, "big") + payload)


def decode_publish(packet: Packet) -> tuple[str, bytes]:
    """Topic and payload of a PUBLISH at QoS 0, or 1. Raises: BadPacket."""
    body = packet.body
    length = int.from_bytes(body[:2], "big")
    begin = 2 + length + (2 if packet.first & 0x06 else 0)
    if len(body) < begin:
        raise BadPacket("a PUBLISH that is too short")
    try:
        return body[2 : 2 + length].decode(), body[begin:]
    except UnicodeDecodeError:
        raise BadPacket("a topic that is not UTF-8") from None


def take_packets(buffer: bytearray) -> Iterator[Packet]:
    """Take every whole packet off the front of the buffer. Raises: BadPacket."""
    while len(buffer) >= 2:
        length, shift, position = 0, 0, 1
        while True:
            if position >= len(buffer):
                return
            byte = buffer[position]
            length |= (byte & 0x7F) << shift
            position += 1
            if not byte & 0x80:
                break
            shift += 7
            if shift > 21:
                raise BadPacket("a remaining length of more than four bytes")
        if length > MAX_PACKET_BYTES:
            raise BadPacket(f"a packet of {length} bytes")
        end = position + length
        if len(buffer) < end:
            return
        packet = Packet(buffer[0], bytes(buffer[position:end]))
        del buffer[:end]
        yield packet


def _packet(first: int, body: bytes) -> bytes:
    length, head = len(body), bytearray([first])
    while True:
        length, low = length >> 7, length & 0x7F
        head.append(low | (0x80 if length else 0))
        if not length:
            return bytes(head) + body


def _text(text: str) -> bytes:
    return _binary(text.encode())


def _binary(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
