"""A syslog receiver over TLS that takes RFC 5425 and RFC 5424 at their word."""

import asyncio
import json
import re
import socket
import ssl
from collections import deque
from typing import Any

from tests.integration.sinks.strict_ends import index_of
from tests.patience import PATIENCE_S

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
            self._take(data, is_whole=True)
        except (ConnectionError, ssl.SSLError):
            self._take(data, is_whole=False)
        finally:
            self._open.discard(task)
            writer.close()

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


class MuteEnd:
    """Takes all there is over TLS, and then goes without the close_notify that would say so."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.received = 0

    def serve_once(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE_S)
        with self._tls.wrap_socket(connection, server_side=True) as secure:
            while chunk := secure.recv(65_536):
                self.received += len(chunk)
        self._listener.close()
