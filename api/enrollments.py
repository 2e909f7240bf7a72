"""Enrollments under way: so many and no more, and all that wait share one transaction.

A token's row is locked until its enrollment has committed: one transaction for each device would
be as many commits, one after the other.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import psycopg
import structlog

from api.errors import Overloaded
from tensorguard.protocol.messages import MqttAddress
from tensorguard.services.applicants import Applicant
from tensorguard.services.enrollment import enroll_all
from tensorguard.services.enrollment_batch import Answer, Outcome
from tensorguard.services.errors import EnrollmentRefused
from tensorguard.services.keyring import Keyring
from tensorguard.store.engine import SessionMaker, store_error

log = structlog.get_logger()

MOST_WAITING: Final = 512
MOST_AT_ONCE: Final = 32
RETRY_AFTER_S: Final = 3
_ENDED_BY_ANOTHER: Final = (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)


@dataclass(frozen=True, slots=True)
class _Waiting:
    applicant: Applicant
    answer: "asyncio.Future[Outcome]" = field(repr=False)


class Enrollments:
    """Puts the devices that wait into one transaction after the other, on one connection."""

    def __init__(
        self,
        sessions: SessionMaker,
        keyring: Keyring,
        mqtt: MqttAddress,
        clock: Callable[[], datetime],
        *,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._sessions = sessions
        self._keyring = keyring
        self._mqtt = mqtt
        self._clock = clock
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(most_waiting)

    async def enroll(self, applicant: Applicant) -> Answer:
        """Wait for the device's turn and return its answer, which is committed.

        Raises: EnrollmentRefused, Overloaded, and what the database raises.
        """
        waiting = _Waiting(applicant, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise Overloaded(
                f"{self._queue.maxsize} devices wait for their enrollment",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        outcome = await waiting.answer
        if isinstance(outcome, EnrollmentRefused):
            raise outcome
        return outcome

    async def run(self) -> None:
        """Enrol whoever waits, until cancelled."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MOST_AT_ONCE and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            # Who has hung up, or waited too long, asks again.
            present = [one for one in batch if not one.answer.done()]
            if present:
                await self._serve(present)

    async def _serve(self, batch: Sequence[_Waiting]) -> None:
        try:
            outcomes = await self._store([one.applicant for one in batch])
        except Exception as error:
            if len(batch) > 1 and _may_be_of_one(error):
                log.warning(
                    "enrollments_separated", devices=len(batch), reason=type(error).__name__
                )
                for one in batch:
                    await self._serve([one])
                return
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one, outcome in zip(batch, outcomes, strict=True):
            if not one.answer.done():
                one.answer.set_result(outcome)

    async def _store(self, applicants: Sequence[Applicant]) -> list[Outcome]:
        async with self._sessions.begin() as session:
            return await enroll_all(
                session, self._keyring, applicants, mqtt=self._mqtt, now=self._clock()
            )


def _may_be_of_one(error: Exception) -> bool:
    """Tell whether the devices might do better one by one: not without a database."""
    original = getattr(error, "orig", error)
    return isinstance(original, _ENDED_BY_ANOTHER) or store_error(error) is None
