"""An MQTT 3.1.1 client that says whatever a test wants it to say, byte by byte."""

import asyncio
import ssl
from typing import NamedTuple, Self

from tests.patience import PATIENCE_S


class Received(NamedTuple):
    """A packet from the front."""

    kind: int
    flags: int
    body: bytes

    @property
    def topic(self) -> str:
        return self.body[2 : 2 + int.from_bytes(self.body[:2], "big")].decode()

    @property
    def payload(self) -> bytes:
        start = 2 + int.from_bytes(self.body[:2], "big") + (2 if self.flags & 6 else 0)
        return self.body[start:]

    @property
    def packet_id(self) -> int:
        start = 2 + int.from_bytes(self.body[:2], "big") if self.kind == 3 else 0
        return int.from_bytes(self.body[start : start + 2], "big")


def field(data: bytes | str) -> bytes:
    """A string with its length before it."""
    raw = data.encode() if isinstance(data, str) else data
    return len(raw).to_bytes(2, "big") + raw


def packet(head: int, body: bytes = b"") -> bytes:
    """A packet with its remaining length."""
    length, digits = len(body), bytearray()
    while True:
        digits.append(length & 0x7F | (0x80 if length > 0x7F else 0))
        length >>= 7
        if not length:
            return bytes([head, *digits]) + body


def connect_packet(
    client_id: str,
    *,
    clean: bool = True,
    keep_alive_s: int = 60,
    will: tuple[str, bytes] | None = None,
    will_flags: int = 0,
    protocol: tuple[str, int] = ("MQTT", 4),
    user: str | None = None,
) -> bytes:
    """CONNECT; `will_flags` holds the will's QoS (shifted by 3) and retain (0x20) bits."""
    flags = (2 if clean else 0) | (4 | will_flags if will else 0) | (0x80 if user else 0)
    body = field(protocol[0]) + bytes([protocol[1], flags]) + keep_alive_s.to_bytes(2, "big")
    body += field(client_id)
    if will:
        body += field(will[0]) + field(will[1])
    if user:
        body += field(user)
    return packet(0x10, body)


class Wire:
    """One TLS connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._packet_id = 0

    @classmethod
    async def open(cls, address: tuple[str, int], context: ssl.SSLContext) -> Self:
        """Complete the TLS handshake and say nothing."""
        return cls(
            *await asyncio.open_connection(*address, ssl=context, server_hostname="localhost")
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()

    def abort(self) -> None:
        """Go without a word."""
        self.writer.transport.abort()

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def connect(self, client_id: str, **asked: object) -> int:
        """CONNECT; return the code of CONNACK."""
        await self.say(connect_packet(client_id, **asked))  # type: ignore[arg-type] # passed through
        answer = await self.hear(10.0)  # NATS takes 5 s where nobody decides
        assert answer is not None
        assert answer.kind == 2
        return answer.body[1]

    async def publish(
        self, topic: str, payload: bytes = b"{}", *, qos: int = 1, retain: bool = False
    ) -> None:
        """PUBLISH; the answer is read by the caller."""
        head = 0x30 | qos << 1 | retain
        body = field(topic)
        if qos:
            self._packet_id += 1
            body += self._packet_id.to_bytes(2, "big")
        await self.say(packet(head, body + payload))

    async def subscribe(self, *filters: str, qos: int = 0) -> list[int]:
        """SUBSCRIBE; return the codes of SUBACK."""
        self._packet_id += 1
        wishes = b"".join(field(wish) + bytes([qos]) for wish in filters)
        await self.say(packet(0x82, self._packet_id.to_bytes(2, "big") + wishes))
        answer = await self.hear()
        assert answer is not None
        assert answer.kind == 9
        return list(answer.body[2:])

    async def ping(self) -> bool:
        """PINGREQ; True where the very next packet is PINGRESP."""
        await self.say(packet(0xC0))
        answer = await self.hear()
        return answer is not None and answer.kind == 13

    async def hear(self, timeout_s: float = PATIENCE_S) -> Received | None:
        """The next packet, or None at the end of the connection."""
        async with asyncio.timeout(timeout_s):
            try:
                head = (await self.reader.readexactly(1))[0]
                length, shift = 0, 0
                while True:
                    digit = (await self.reader.readexactly(1))[0]
                    length |= (digit & 0x7F) << shift
                    shift += 7
                    if not digit & 0x80:
                        break
                return Received(head >> 4, head & 15, await self.reader.readexactly(length))
            except (asyncio.IncompleteReadError, OSError):
                return None

    async def hear_publish(self) -> Received:
        """The next PUBLISH, acked where it asks for it."""
        while True:
            heard = await self.hear()
            assert heard is not None, "the front has ended the connection"
            if heard.kind == 3:
                if heard.flags & 6:
                    await self.say(packet(0x40, heard.packet_id.to_bytes(2, "big")))
                return heard
