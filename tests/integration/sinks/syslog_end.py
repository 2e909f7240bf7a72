"""A syslog receiver over TLS that takes RFC 5425 and RFC 5424 at their word."""

import asyncio
import json
import re
import ssl
from collections import deque
from typing import Any

from tests.integration.sinks.strict_ends import index_of

_FRAME = re.compile(rb"([1-9][0-9]*) ")
_MESSAGE = re.compile(
    rb"<([0-9]{1,3})>1 "
    rb"(?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{1,6}Z) "
    rb"(?P<host>[!-~]{1,255}) tensorguard - (?P<kind>[!-~]{1,32}) "
    rb"\[(?P<data>[!-<>-\\^-~]{1,32}( [a-z_]{1,32}=\"[^\"\\\]]*\")+)\] "
    rb"\xef\xbb\xbf(?P<json>.*)",
    re.DOTALL,
)


class SyslogEnd:
    """Each entry of `lets_through`, while there are any, is after how many bytes it dies."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.port = 0
        self.lets_through: deque[int] = deque()
        self.dies_at_entries: int | None = None
        self.taken: list[dict[str, Any]] = []

    @property
    def indexes(self) -> list[int]:
        return [index_of(one) for one in self.taken]

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls, limit=4 * 1024 * 1024
        )
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        dies_after = self.lets_through.popleft() if self.lets_through else None
        data = bytearray()
        try:
            while chunk := await reader.read(65_536):
                data += chunk
                if dies_after is not None and len(data) > dies_after:
                    self._take(data[:dies_after], is_whole=False)
                    writer.transport.abort()
                    return
                if self.dies_at_entries is not None and self._count(data) == self.dies_at_entries:
                    self._take(data, is_whole=True)
                    writer.transport.abort()  # it has them all, and does not say so
                    return
            self._take(data, is_whole=True)
        except (ConnectionError, ssl.SSLError):
            self._take(data, is_whole=False)
        finally:
            self._open.discard(task)
            writer.close()

    def _count(self, data: bytearray) -> int:
        """How many whole messages there are, with nothing after them; else 0."""
        at = count = 0
        while at < len(data) and (frame := _FRAME.match(data, at)) is not None:
            at, count = frame.end() + int(frame[1]), count + 1
        return count if at == len(data) else 0

    def _take(self, data: bytearray, *, is_whole: bool) -> None:
        at = 0
        while at < len(data):
            frame = _FRAME.match(data, at)
            if frame is None:
                assert not is_whole, data[at : at + 40]
                return
            start, end = frame.end(), frame.end() + int(frame[1])
            if end > len(data):
                assert not is_whole
                return
            message = _MESSAGE.fullmatch(data, start, end)
            assert message is not None, bytes(data[start : start + 300])
            assert int(message[1]) <= 191
            self.taken.append(json.loads(message["json"]))
            at = end
