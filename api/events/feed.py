"""The process's one reader of hints: it polls while somebody listens, and hands out copies."""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from api.errors import NotReady, TooManyRequests
from api.events.subscription import Interest, Subscription, Told, reset_at
from tensorguard.services.people.access import Caller
from tensorguard.services.people.standing import find_standing
from tensorguard.store import stream
from tensorguard.store.engine import SessionMaker, store_error

log = structlog.get_logger()

POLL_EVERY_S: Final = 0.2
CHECK_EVERY_S: Final = 0.5
MAX_STREAMS: Final = 500
MAX_STREAMS_PER_CALLER: Final = 8
MAX_AT_ONCE: Final = 5_000
"""More hints than these at one time, and everybody reads everything again."""
_LONGEST_PAUSE_S: Final = 5.0


class Feed:
    """All listeners of this process."""

    def __init__(
        self, sessions: SessionMaker, clock: Callable[[], datetime], *, idle: timedelta
    ) -> None:
        self._sessions = sessions
        self._clock = clock
        self._idle = idle
        self._listeners: set[Subscription] = set()
        self._snapshot = ""
        self._starting = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._checked_at = 0.0
        self._failures = 0
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    async def join(
        self, caller: Caller, interest: Interest, *, resume_at: int | None
    ) -> Subscription:
        """Begin to listen, from now on or from a position on; `leave` ends it.

        Raises: TooManyRequests, NotReady, and what the database raises.
        """
        if self._closed:
            raise NotReady("the platform is stopping")
        async with self._starting:
            self._check_room(caller)
            if self._reader is None or self._reader.done():
                async with self._sessions() as session:
                    self._snapshot = await stream.get_snapshot(session)
                self._reader = asyncio.create_task(self._run(), name="events-feed")
            snapshot = self._snapshot
            found = Subscription(caller, interest, stream.position_of(snapshot))
            # From here on nothing is missed: the reader goes on from this very snapshot.
            self._listeners.add(found)
        if resume_at is not None:
            try:
                await self._replay(found, resume_at, until=snapshot)
            except BaseException:
                self.leave(found)
                raise
        return found

    def leave(self, subscription: Subscription) -> None:
        """End a subscription; the reader rests when it was the last."""
        subscription.end("left")
        self._listeners.discard(subscription)

    async def close(self) -> None:
        """End all subscriptions, and let nobody join."""
        self._closed = True
        for one in list(self._listeners):
            one.end("stopping")
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    def _check_room(self, caller: Caller) -> None:
        own = sum(1 for one in self._listeners if one.caller == caller)
        if own >= MAX_STREAMS_PER_CALLER or len(self._listeners) >= MAX_STREAMS:
            raise TooManyRequests("too many event streams are open", retry_after_s=5)

    async def _replay(self, subscription: Subscription, position: int, *, until: str) -> None:
        async with self._sessions() as session:
            page = await stream.read_from(session, position, until=until, limit=MAX_AT_ONCE)
        if page.complete:
            told = Told(page.hints, page.position)
            subscription.put_first(told.to(subscription.caller, subscription.interest))
        else:
            subscription.put_first(reset_at(page.position))

    async def _run(self) -> None:
        while self._listeners:
            try:
                await self._step()
                pause_s, self._failures = POLL_EVERY_S, 0
            except Exception as error:  # whatever is wrong, those who listen wait for its end
                self._failures += 1
                ceiling_s = min(_LONGEST_PAUSE_S, POLL_EVERY_S * 2 ** min(self._failures, 10))
                pause_s = random.uniform(POLL_EVERY_S, ceiling_s)  # noqa: S311 - jitter
                reason = str(store_error(error) or type(error).__name__)
                log.error("events_not_read", reason=reason, failures=self._failures)
            await asyncio.sleep(pause_s)

    async def _step(self) -> None:
        now = time.monotonic()
        async with self._sessions() as session:
            if now - self._checked_at >= CHECK_EVERY_S:
                await self._end_who_must_go(session)
                self._checked_at = now
            page = await stream.read_since(session, self._snapshot, limit=MAX_AT_ONCE)
            # After an outage the rows may be gone, or the database may be another one.
            complete = page.complete and (
                not self._failures
                or await stream.is_kept(session, stream.position_of(self._snapshot))
            )
        self._snapshot = page.snapshot
        told = Told(page.hints, page.position)
        for one in list(self._listeners):
            if complete:
                one.tell(told)
            else:
                one.position = page.position
                one.put(reset_at(page.position))

    async def _end_who_must_go(self, session: AsyncSession) -> None:
        """End the streams of those who have signed out, or may no longer see what they saw."""
        callers = {one.caller for one in self._listeners}
        standing = await find_standing(session, callers, idle=self._idle, now=self._clock())
        # Whoever has joined meanwhile was not asked about.
        gone = callers - standing
        for one in self._listeners:
            if one.caller in gone:
                one.end("signed-out")
