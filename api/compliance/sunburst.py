"""The sunburst's counts, kept: at 100,000 agents no request waits until all of them were read."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from tensorguard.services.compliance.bands import BandCount, FleetStanding, tell_all, tell_fleets
from tensorguard.store.engine import SessionMaker, store_error
from tensorguard.store.standing import count_agents_by_reason

log = structlog.get_logger()

FEW_AGENTS: Final = 10_000
"""So many are read again for each request, in some 30 ms: a small platform's chart is exact."""
REFRESHED_FOR_S: Final = 5.0
EVERY_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Sunburst:
    """How the fleets stood at a moment."""

    as_of: datetime
    bands: Sequence[BandCount]
    fleets: Sequence[FleetStanding]


class Sunbursts:
    """Reads how all agents stand, one reading at a time, and hands out the newest."""

    def __init__(
        self,
        sessions: SessionMaker,
        clock: Callable[[], datetime],
        timer: Callable[[], float] = time.monotonic,
        few: int = FEW_AGENTS,
    ) -> None:
        self._sessions = sessions
        self._clock = clock
        self._timer = timer
        self._few = few
        self._newest: Sunburst | None = None
        self._read_at = 0.0
        self._reading: asyncio.Task[Sunburst] | None = None

    async def get(self) -> Sunburst:
        """Return the counts: of now where the agents are few, else of some seconds ago.

        Raises: a database error, if there is nothing that could be shown instead.
        """
        if self._newest is None or self._is_cheap(self._newest):
            return await asyncio.shield(self._read())
        if self._timer() - self._read_at > REFRESHED_FOR_S:
            self._read()
        return self._newest

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the counts of many agents fresh until `stop`, so that nobody waits for them."""
        while not stop.is_set():
            if self._newest is None or not self._is_cheap(self._newest):
                await asyncio.wait([self._read()])
            try:
                async with asyncio.timeout(EVERY_S):
                    await stop.wait()
            except TimeoutError:
                continue
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def _is_cheap(self, known: Sunburst) -> bool:
        return sum(band.agents for band in known.bands) <= self._few

    def _read(self) -> asyncio.Task[Sunburst]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._count(), name="sunburst")
            self._reading.add_done_callback(_told)
        return self._reading

    async def _count(self) -> Sunburst:
        now = self._clock()
        async with self._sessions() as session:
            counts = await count_agents_by_reason(session, now=now)
        fleets = tell_fleets(counts)
        self._newest = Sunburst(now, tell_all(fleets), fleets)
        self._read_at = self._timer()
        return self._newest


def _told(reading: "asyncio.Task[Sunburst]") -> None:
    error = None if reading.cancelled() else reading.exception()
    if isinstance(error, Exception):  # whoever waits for it gets it too; nobody may wait
        reason = str(store_error(error) or type(error).__name__)
        log.warning("sunburst_not_read", reason=reason)
