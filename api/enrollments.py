"""Enrollments under way: so many and no more, and all that wait share one transaction.

A token's row is locked until its enrollment has committed: one transaction for each device would
be as many commits, one after the other. They have a thread of their own: on the listener's event
loop each step of a transaction would wait behind every handshake of a flood of devices.
"""

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import psycopg
import structlog
import uvloop

from api.errors import Overloaded
from tensorguard.protocol.messages import MqttAddress
from tensorguard.services.enrollment.applicants import Applicant
from tensorguard.services.enrollment.enrollment import enroll_all
from tensorguard.services.enrollment.enrollment_batch import Answer, Outcome
from tensorguard.services.errors import EnrollmentRefused
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import SessionMaker, create_engine, session_maker, store_error

log = structlog.get_logger()

MOST_WAITING: Final = 1000
MOST_AT_ONCE: Final = 64
RETRY_AFTER_S: Final = 3
_ENDED_BY_ANOTHER: Final = (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)


@dataclass(frozen=True, slots=True)
class _Waiting:
    applicant: Applicant
    answer: "concurrent.futures.Future[Outcome]" = field(
        default_factory=concurrent.futures.Future, repr=False
    )


class Enrollments:
    """Puts the devices that wait into one transaction after the other, on one connection."""

    def __init__(
        self,
        database_url: str,
        keyring: Keyring,
        mqtt: MqttAddress,
        clock: Callable[[], datetime],
        *,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._database_url = database_url
        self._keyring = keyring
        self._mqtt = mqtt
        self._clock = clock
        self._most_waiting = most_waiting
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._stopped = False

    async def enroll(self, applicant: Applicant) -> Answer:
        """Wait for the device's turn and return its answer, which is committed.

        Raises: EnrollmentRefused, Overloaded, and what the database raises.
        """
        waiting = _Waiting(applicant)
        with self._changed:
            if self._stopped or len(self._waiting) >= self._most_waiting:
                raise Overloaded(
                    "too many devices wait for their enrollment",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._waiting.append(waiting)
            self._changed.notify()
        outcome = await asyncio.wrap_future(waiting.answer)
        if isinstance(outcome, EnrollmentRefused):
            raise outcome
        return outcome

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Enrol whoever waits while the block runs; those left over are told to come back."""
        thread = threading.Thread(
            target=lambda: uvloop.run(self._serve()), name="enrollments", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify()
            await asyncio.to_thread(thread.join)

    async def _serve(self) -> None:
        engine = create_engine(self._database_url, service="enrollments", pool_size=1)
        try:
            sessions = session_maker(engine)
            # Nothing else runs on this thread's loop: it may block until somebody waits.
            while batch := self._next():
                # Who has hung up, or waited too long, asks again.
                present = [one for one in batch if one.answer.set_running_or_notify_cancel()]
                if present:
                    await self._enroll(sessions, present)
        finally:
            await engine.dispose()
            self._send_away()

    def _next(self) -> list[_Waiting]:
        """Wait for devices and return the first of them; none when it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            if self._stopped:
                return []
            count = min(len(self._waiting), MOST_AT_ONCE)
            return [self._waiting.popleft() for _ in range(count)]

    def _send_away(self) -> None:
        with self._changed:
            self._stopped = True
            left = [one for one in self._waiting if one.answer.set_running_or_notify_cancel()]
            self._waiting.clear()
        for one in left:
            one.answer.set_exception(Overloaded("the process stops", retry_after_s=RETRY_AFTER_S))

    async def _enroll(self, sessions: SessionMaker, batch: Sequence[_Waiting]) -> None:
        try:
            async with sessions.begin() as session:
                outcomes = await enroll_all(
                    session,
                    self._keyring,
                    [one.applicant for one in batch],
                    mqtt=self._mqtt,
                    now=self._clock(),
                )
        except Exception as error:
            if len(batch) > 1 and _may_be_of_one(error):
                reason = type(error).__name__
                log.warning("enrollments_separated", devices=len(batch), reason=reason)
                for one in batch:
                    await self._enroll(sessions, [one])
                return
            for one in batch:
                one.answer.set_exception(error)
            return
        for one, outcome in zip(batch, outcomes, strict=True):
            one.answer.set_result(outcome)


def _may_be_of_one(error: Exception) -> bool:
    """Tell whether the devices might do better one by one: not without a database."""
    original = getattr(error, "orig", error)
    return isinstance(original, _ENDED_BY_ANOTHER) or store_error(error) is None
