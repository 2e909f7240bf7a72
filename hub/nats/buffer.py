"""Uplinks between the connection and ingest; bounded by what the partitions ask for."""

import asyncio
from collections import deque
from collections.abc import Collection
from contextlib import suppress

from hub.uplink import Uplink


class Buffer:
    """What is received and not handed out, in the order in which it came."""

    def __init__(self) -> None:
        self._uplinks: deque[Uplink] = deque()
        self._wanted = 1
        self._enough = asyncio.Event()

    def put(self, uplink: Uplink) -> None:
        """Take one in."""
        self._uplinks.append(uplink)
        if len(self._uplinks) >= self._wanted:
            self._enough.set()

    async def take(self, most: int, wait_s: float) -> list[Uplink]:
        """Hand out up to `most`: at once when as many are there, else after `wait_s`."""
        if len(self._uplinks) < most and wait_s > 0:
            self._wanted = most
            self._enough.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._enough.wait()
        return [self._uplinks.popleft() for _ in range(min(most, len(self._uplinks)))]

    def forget(self, partitions: Collection[int]) -> None:
        """Leave what came from these partitions."""
        kept = [uplink for uplink in self._uplinks if uplink.receipt[0] not in partitions]
        self._uplinks.clear()
        self._uplinks.extend(kept)
