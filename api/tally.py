"""Counts what nobody may flood the ledger with: one entry at once, one a minute with the rest."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Event
from tensorguard.store.engine import SessionMaker, store_error

log = structlog.get_logger()

WINDOW = timedelta(minutes=1)
MAX_KEYS = 200  # different things a minute; what is beyond is counted together in the log


@dataclass
class _Window:
    make: Callable[[int, datetime], Event]
    since: datetime
    unwritten: int = 0


class Tally:
    """Writes the first event of a key at once, and the number of the others after a minute."""

    def __init__(self, sessions: SessionMaker, clock: Callable[[], datetime]) -> None:
        self._sessions = sessions
        self._clock = clock
        self._windows: dict[Hashable, _Window] = {}
        self._dropped = 0

    async def count(self, key: Hashable, make: Callable[[int, datetime], Event]) -> None:
        """Count one; `make(count, since)` returns the event for `count` of them."""
        now = self._clock()
        window = self._windows.get(key)
        if window is not None:
            window.unwritten += 1
            return
        if len(self._windows) >= MAX_KEYS:
            self._dropped += 1
            return
        self._windows[key] = _Window(make, since=now)
        await self._write([make(1, now)], now)

    async def flush(self, *, all_of_them: bool = False) -> None:
        """Write the counts of the minutes that are over."""
        now = self._clock()
        over = [
            key
            for key, window in self._windows.items()
            if all_of_them or now - window.since >= WINDOW
        ]
        windows = [self._windows.pop(key) for key in over]
        if self._dropped:
            log.warning("denials_not_recorded", count=self._dropped)
            self._dropped = 0
        events = [one.make(one.unwritten, one.since) for one in windows if one.unwritten]
        if events:
            await self._write(events, now)

    async def _write(self, events: list[Event], now: datetime) -> None:
        try:
            async with self._sessions.begin() as session:
                await ledger.record_many(session, events, now=now)
        except Exception as error:
            # The refusal itself stands; without a database nothing else is served either.
            if store_error(error) is None:
                raise
            log.error("denials_not_recorded", count=len(events), reason=str(store_error(error)))
