"""A few at a time and few in the queue: for what costs much memory, time or a connection."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from api.errors import ApiError


class Turns:
    """Lets so many in at a time, has so many wait, and refuses the others with what `full` makes.

    Without `most_waiting` all may wait.
    """

    def __init__(
        self,
        at_a_time: int,
        *,
        most_waiting: int | None = None,
        full: Callable[[], ApiError] | None = None,
    ) -> None:
        self._free = asyncio.Semaphore(at_a_time)
        self._most_waiting = most_waiting
        self._full = full
        self._waiting = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it until the block ends. Raises: what `full` makes."""
        if self._full and self._most_waiting is not None and self._waiting >= self._most_waiting:
            raise self._full()
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()

    async def each(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield what `chunks` yields, each made in a turn of its own.

        Whoever takes them slowly has no turn meanwhile.
        """
        while True:
            async with self.one():
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk
