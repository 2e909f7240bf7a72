"""One agent's MQTT session over mutual TLS, on a bare non-blocking socket.

asyncio's TLS transport holds 256 KiB of buffer a connection. A socket with `add_reader` holds what
OpenSSL needs: 39 KiB with Python's objects, measured on Linux. A context with a certificate costs
another 22 KiB, so each connection begins on a context that all share, borrows the agent's own for
the handshake, and gives it back.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.core.backoff import REFUSED_WITHIN_S
from agent.core.effects import Publish
from simulators import mqtt
from simulators.errors import LinkFailed

KEEP_ALIVE_S = 60
OPEN_WITHIN_S = 30.0
MAX_WAITING_BYTES = 256 * 1024
_READ_BYTES = 16 * 1024


class Owner(Protocol):
    """Who is told what happens on a link."""

    def on_message(self, topic: str, payload: bytes) -> None: ...
    def on_closed(self, reason: str) -> None: ...


@dataclass(slots=True)
class Endpoint:
    """Where all agents of a simulation connect to, and the CAs that they believe."""

    host: str
    port: int
    ca_pem: str
    source: str | None = None
    address: tuple[int, tuple[str, int]] | None = None
    shared: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        self.shared = self._context()

    def own_context(self, pem: Path) -> ssl.SSLContext:
        """A context with one agent's key and certificate."""
        context = self._context()
        context.load_cert_chain(pem)
        return context

    async def resolve(self, loop: asyncio.AbstractEventLoop) -> tuple[int, tuple[str, int]]:
        """The address family and address of the host, looked up once. Raises: LinkFailed."""
        if self.address is None:
            try:
                found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise LinkFailed(f"{self.host} does not resolve") from error
            # IPv4 first: a name that has both is nearly always served on the former.
            found.sort(key=lambda one: one[0] != socket.AF_INET)
            family, _, _, _, address = found[0]
            self.address = (family, (str(address[0]), int(address[1])))
        return self.address

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self.ca_pem)
        return context


class Link:
    """A session that is up; made by `open_link`, ended by `close` or by `Owner.on_closed`."""

    __slots__ = (
        "_fd",
        "_incoming",
        "_loop",
        "_outgoing",
        "_owner",
        "_packet_id",
        "_socket",
        "_writing",
        "heard_s",
        "said_s",
        "unconfirmed",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tls: ssl.SSLSocket, owner: Owner, rest: bytearray
    ) -> None:
        self._loop = loop
        self._socket: ssl.SSLSocket | None = tls
        self._fd = tls.fileno()
        self._owner = owner
        self._packet_id = 1
        self._incoming: bytearray | None = rest or None
        self._outgoing: bytearray | None = None
        self._writing = False
        self.heard_s = self.said_s = loop.time()
        self.unconfirmed = 0
        loop.add_reader(self._fd, self._on_readable)
        if rest:
            loop.call_soon(self._resume)

    @property
    def is_open(self) -> bool:
        """Whether the session has not ended."""
        return self._socket is not None

    def publish(self, publish: Publish) -> bool:
        """Send at QoS 1; False where the link is too far behind, and the message is dropped."""
        self._packet_id = self._packet_id % 65535 + 1
        packet = mqtt.encode_publish(self._packet_id, publish.topic, publish.payload)
        if self._outgoing is not None and len(self._outgoing) > MAX_WAITING_BYTES:
            return False
        self.unconfirmed += 1
        self._send(packet)
        return True

    def ping(self) -> None:
        """Say that we are alive."""
        self._send(mqtt.PINGREQ_PACKET)

    def close(self, *, politely: bool = True) -> None:
        """End the session; without DISCONNECT the broker publishes the will."""
        if self._socket is None:
            return
        if politely:
            self._send(mqtt.DISCONNECT_PACKET)
        self._drop()

    def _send(self, data: bytes) -> None:
        self.said_s = self._loop.time()
        if self._outgoing is None:
            self._outgoing = bytearray(data)
        else:
            self._outgoing += data
        if not self._writing:
            self._flush()

    def _flush(self) -> None:
        if self._socket is None or not self._outgoing:
            return
        try:
            while self._outgoing:
                del self._outgoing[: self._socket.send(self._outgoing)]
            self._outgoing = None
            if self._writing:
                self._writing = False
                self._loop.remove_writer(self._fd)
        except (ssl.SSLWantWriteError, BlockingIOError):
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._fd, self._flush)
        except ssl.SSLWantReadError:
            pass  # the next bytes that come in will let it go on
        except OSError as error:
            self._end(_describe(error))

    def _on_readable(self) -> None:
        try:
            while self._socket is not None:
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    self._end("the broker closed the connection")
                    return
                self._take(data)
        except (ssl.SSLWantReadError, BlockingIOError):
            if self._outgoing and not self._writing:
                self._flush()
        except (OSError, mqtt.BadPacket) as error:
            self._end(_describe(error))

    def _resume(self) -> None:
        """Take what came in one piece with the SUBACK."""
        try:
            self._take(b"")
        except mqtt.BadPacket as error:
            self._end(_describe(error))

    def _take(self, data: bytes) -> None:
        if self._socket is None:
            return
        self.heard_s = self._loop.time()
        if self._incoming is None:
            self._incoming = bytearray(data)
        else:
            self._incoming += data
        for packet in mqtt.take_packets(self._incoming):
            if packet.kind == mqtt.PUBLISH:
                self._owner.on_message(*mqtt.decode_publish(packet))
            elif packet.kind == mqtt.PUBACK:
                self.unconfirmed = max(0, self.unconfirmed - 1)
            elif packet.kind != mqtt.PINGRESP:
                raise mqtt.BadPacket(f"an unexpected packet of type {packet.kind >> 4}")
            if self._incoming is None:
                return  # the owner has closed us
        if not self._incoming:
            self._incoming = None

    def _drop(self) -> None:
        tls, self._socket = self._socket, None
        self._incoming = self._outgoing = None
        if tls is None:
            return
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        tls.close()

    def _end(self, reason: str) -> None:
        if self._socket is not None:
            self._drop()
            self._owner.on_closed(reason)


async def open_link(
    endpoint: Endpoint,
    pem: Path,
    owner: Owner,
    *,
    client_id: str,
    filters: tuple[str, ...],
    will: Publish,
) -> Link:
    """Connect, prove who we are, subscribe at QoS 0. Raises: LinkFailed."""
    loop = asyncio.get_running_loop()
    connect = mqtt.encode_connect(
        client_id, keep_alive_s=KEEP_ALIVE_S, will_topic=will.topic, will_payload=will.payload
    )
    try:
        async with asyncio.timeout(OPEN_WITHIN_S):
            tls = await _open_tls(loop, endpoint, pem)
            try:
                rest = bytearray()
                await _write(loop, tls, connect)
                asked_s = loop.time()
                answer = await _read_packet(loop, tls, rest)
                _check_connack(answer, waited_s=loop.time() - asked_s)
                await _write(loop, tls, mqtt.encode_subscribe(1, filters))
                _check_suback(await _read_packet(loop, tls, rest))
            except BaseException:
                tls.close()
                raise
    except TimeoutError:
        raise LinkFailed("no answer in time") from None
    except (OSError, mqtt.BadPacket) as error:
        disbelieved = isinstance(error, ssl.SSLCertVerificationError)
        raise LinkFailed(_describe(error), disbelieved=disbelieved) from error
    return Link(loop, tls, owner, rest)


async def _open_tls(
    loop: asyncio.AbstractEventLoop, endpoint: Endpoint, pem: Path
) -> ssl.SSLSocket:
    family, address = await endpoint.resolve(loop)
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if endpoint.source is not None:
            raw.bind((endpoint.source, 0))
        await loop.sock_connect(raw, address)
        own = endpoint.own_context(pem)
        tls = endpoint.shared.wrap_socket(
            raw, server_hostname=endpoint.host, do_handshake_on_connect=False
        )
    except BaseException:
        raw.close()
        raise
    try:
        tls.context = own
        await _retry(loop, tls, tls.do_handshake)
        tls.context = endpoint.shared
    except BaseException:
        tls.close()
        raise
    return tls


async def _write(loop: asyncio.AbstractEventLoop, tls: ssl.SSLSocket, data: bytes) -> None:
    await _retry(loop, tls, lambda: tls.send(data))


async def _read_packet(
    loop: asyncio.AbstractEventLoop, tls: ssl.SSLSocket, buffer: bytearray
) -> mqtt.Packet:
    while True:
        for packet in mqtt.take_packets(buffer):
            return packet
        data = await _retry(loop, tls, lambda: tls.recv(_READ_BYTES))
        if not data:
            raise LinkFailed("the broker closed the connection")
        assert isinstance(data, bytes)
        buffer += data


async def _retry(
    loop: asyncio.AbstractEventLoop, tls: ssl.SSLSocket, step: Callable[[], object]
) -> object:
    while True:
        try:
            return step()
        except ssl.SSLWantReadError:
            await _wait(tls, loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _wait(tls, loop.add_writer, loop.remove_writer)


async def _wait(
    tls: ssl.SSLSocket, add: Callable[..., object], remove: Callable[[int], object]
) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    descriptor = tls.fileno()
    add(descriptor, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(descriptor)


def _check_connack(packet: mqtt.Packet, *, waited_s: float) -> None:
    if packet.kind != mqtt.CONNACK or len(packet.body) != 2:
        raise LinkFailed("the broker answered CONNECT with something else")
    if packet.body[1]:
        raise LinkFailed(
            f"the broker refused the connection with code {packet.body[1]}",
            refused=packet.body[1] == mqtt.NOT_AUTHORIZED and waited_s < REFUSED_WITHIN_S,
        )


def _check_suback(packet: mqtt.Packet) -> None:
    if packet.kind != mqtt.SUBACK or any(code & 0x80 for code in packet.body[2:]):
        raise LinkFailed("the broker refused a subscription")


def _describe(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not believed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
