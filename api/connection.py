"""Connections that say nothing are ended: uvicorn itself waits for a request's head for ever."""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_WITHIN_S = 15.0
# An ASGI extension: `scope["extensions"][ABORT]["now"]()` ends a connection whose peer takes
# nothing any more; to close it would wait until the peer has taken what was written already.
ABORT: Final = "tensorguard.abort"


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 whose request heads have to be complete within fifteen seconds."""

    _impatience: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # Whatever becomes of uvicorn's logger: its lines hold query strings.
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_head()
        else:
            self._stop_waiting()

    def handle_events(self) -> None:
        super().handle_events()
        if self.scope is not None:
            self.scope.setdefault("extensions", {})[ABORT] = {"now": self.transport.abort}

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        # Not started again by every further byte of the same head.
        if self._impatience is None:
            self._impatience = self.loop.call_later(HEAD_WITHIN_S, self._hang_up)

    def _stop_waiting(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _hang_up(self) -> None:
        self._impatience = None
        if not self.transport.is_closing():
            self.transport.close()
