"""Sockets that are given no handshake: kept open for a moment, and nothing else done with them."""

import asyncio
import socket
import struct
from collections import OrderedDict
from datetime import timedelta
from typing import Final

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Holding:
    """Holds at most so many sockets for so long, then resets them; more than that, the oldest go.

    Nothing is read, so that a held peer costs a descriptor and what it has sent so far (the kernel
    takes a few KiB). A reset leaves no TIME_WAIT behind.
    """

    def __init__(self, most: int, duration: timedelta, loop: asyncio.AbstractEventLoop) -> None:
        self._most = most
        self._duration_s = duration.total_seconds()
        self._loop = loop
        # Oldest first, with the time of their end.
        self._sockets: OrderedDict[socket.socket, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self.total = 0

    @property
    def held(self) -> int:
        """Sockets that are held now."""
        return len(self._sockets)

    def add(self, sock: socket.socket) -> None:
        """Take over a socket."""
        self.total += 1
        if len(self._sockets) >= self._most:
            _reset(self._sockets.popitem(last=False)[0])
        self._sockets[sock] = self._loop.time() + self._duration_s
        if self._timer is None:
            self._timer = self._loop.call_later(self._duration_s, self._end)

    def close(self) -> None:
        """Let all go."""
        if self._timer is not None:
            self._timer.cancel()
        while self._sockets:
            _reset(self._sockets.popitem()[0])

    def _end(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._sockets:
            sock, until = next(iter(self._sockets.items()))
            if until > now:
                self._timer = self._loop.call_at(until, self._end)
                return
            del self._sockets[sock]
            _reset(sock)


def _reset(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    except OSError:  # the peer is gone already
        pass
    finally:
        sock.close()
