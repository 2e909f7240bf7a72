"""Many devices that join at once, each on a TLS connection of its own, by nothing but asyncio."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.patience import PATIENCE_S


@dataclass(frozen=True)
class Reply:
    """A status, and the body as it came."""

    status: int
    body: bytes


class Listener:
    """A device listener, as those who join see it."""

    def __init__(self, port: int, ca_pem: str) -> None:
        self._port = port
        self._tls = ssl.create_default_context(cadata=ca_pem)

    async def shake_hands(self) -> None:
        """Connect, and ask nothing."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
        writer.transport.abort()

    async def enroll(self, body: bytes, source: str = "127.0.0.1") -> Reply:
        """Send an enrollment from an address of this machine."""
        head = (
            b"POST /device/v1/enroll HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        return parse(await self.exchange(head + body, source))

    async def exchange(self, said: bytes, source: str = "127.0.0.1") -> bytes:
        """Say something and return everything that is answered until the connection ends."""
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._tls, local_addr=(source, 0)
            )
            try:
                writer.write(said)
                return await reader.read()
            finally:
                writer.transport.abort()


def parse(answer: bytes) -> Reply:
    """Take one HTTP/1.1 answer apart."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return Reply(int(head[9:12] or 0), body)


async def all_at_once(count: int, at_once: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Do `work` for each number below `count`, so many at the same time."""
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(some())
