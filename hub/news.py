"""What batches change faster than anybody looks, told once a second: progress and heartbeats.

Kept in memory, so that no batch writes a row for it. A hub that dies takes at most a second of it
along: the next one begins by saying that anything may have changed.
"""

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import sqlalchemy as sa
import structlog

from hub.presence import pause
from tensorguard.services.hints import OVERVIEW, Hint, HintKind, tell
from tensorguard.store.engine import SessionMaker

log = structlog.get_logger()
TOLD_EVERY = timedelta(seconds=1)
_ANYTHING = (Hint(HintKind.AGENT), Hint(HintKind.DEPLOYMENT), OVERVIEW)


class News:
    """What committed batches have done since the last hint."""

    def __init__(self) -> None:
        self._heartbeats = 0
        self._deployments: set[UUID] = set()
        self._quiet = True

    def add(self, heartbeats: int, deployments: Collection[UUID]) -> None:
        """Count a committed batch."""
        self._heartbeats += heartbeats
        self._deployments.update(deployments)

    def take(self) -> list[Hint]:
        """Return the hints that are due and start over; `put_back` what could not be written.

        The first second without a heartbeat is told too, as a count of 0.
        """
        hints = [Hint(HintKind.DEPLOYMENT, str(one)) for one in self._deployments]
        if self._heartbeats or not self._quiet:
            hints.append(Hint(HintKind.HEARTBEATS, count=self._heartbeats))
        self._quiet = not self._heartbeats
        self._heartbeats = 0
        self._deployments.clear()
        return hints

    def put_back(self, hints: Collection[Hint]) -> None:
        """Take up again what `take` returned."""
        for hint in hints:
            if hint.kind is HintKind.DEPLOYMENT:
                self._deployments.add(UUID(hint.id))
        self._heartbeats += sum(hint.count or 0 for hint in hints)


class Newscaster:
    """Writes the news down each second."""

    def __init__(self, sessions: SessionMaker, news: News, clock: Callable[[], datetime]) -> None:
        self._sessions = sessions
        self._news = news
        self._clock = clock
        self._started = False

    async def run(self, stop: asyncio.Event) -> None:
        """Tell each second until `stop`, and what is left then."""
        while not stop.is_set():
            await pause(stop, TOLD_EVERY.total_seconds())
            await self.step()

    async def step(self) -> None:
        """Write what is due; what cannot be written is told the next time."""
        hints = self._news.take()
        try:
            async with self._sessions() as session, session.begin():
                await tell(
                    session, [*(() if self._started else _ANYTHING), *hints], now=self._clock()
                )
            self._started = True
        except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
            self._news.put_back(hints)
            log.error("news_not_told", reason=str(getattr(error, "orig", error)))
