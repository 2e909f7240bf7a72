"""Moves secrets under the present version of their KEK, a few at a time, by compare and set.

Each secret is unwrapped by the key that it is under, wrapped by the other, unwrapped once more and
compared, and only then stored, if its row is still what was read. A worker that dies has lost
nothing: what is still to be moved stands in the rows themselves.
"""

import asyncio
import secrets as random_secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from hmac import compare_digest
from typing import Final
from uuid import UUID

import psycopg
import sqlalchemy as sa
import structlog

from tensorguard.services.hints import tell
from tensorguard.services.keys import rewrap_jobs
from tensorguard.services.keys.kek_providers import KekProviders
from tensorguard.services.keys.keks import Kek, get_kek, hint_of, note_description
from tensorguard.services.keys.rewrap_jobs import RewrapJob
from tensorguard.store import tables
from tensorguard.store.engine import SessionMaker
from tensorguard.vault.errors import Corrupted, VaultError, WrongContext
from tensorguard.vault.provider import ManagedProvider, WrappedKey, canonical_context

log = structlog.get_logger(__name__)
AT_ONCE: Final = 20
LOOK_EVERY_S: Final = 5.0
TELL_EVERY_S: Final = 0.5
"""Nobody reads progress again more often."""
RETRY_AFTER: Final = timedelta(seconds=15)


class Rewrapper:
    """Works on jobs; of several workers one has a job at a time."""

    def __init__(
        self,
        sessions: SessionMaker,
        keks: KekProviders,
        clock: Callable[[], datetime],
    ) -> None:
        self._sessions = sessions
        self._keks = keks
        self._clock = clock
        self._worker = random_secrets.token_hex(8)
        self._told_at = -TELL_EVERY_S

    async def run(self, stop: asyncio.Event) -> None:
        """Work on whatever job is due until `stop`."""
        while not stop.is_set():
            try:
                async with self._sessions() as session:
                    due = await rewrap_jobs.list_due_jobs(session, now=self._clock())
                for job_id in due:
                    await self.work_on(job_id, stop)
            except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
                log.error("rewrap_interrupted", reason=str(getattr(error, "orig", error)))
            await _wait(stop, LOOK_EVERY_S)

    async def work_on(
        self,
        job_id: UUID,
        stop: asyncio.Event,
        tell: Callable[[RewrapJob], None] = lambda job: None,
    ) -> RewrapJob:
        """Work on one job until it ends, has to wait, is another's, or `stop`."""
        while not stop.is_set():
            began = asyncio.get_running_loop().time()
            more = await self.step(job_id)
            async with self._sessions() as session:
                job = await rewrap_jobs.get_job(session, job_id)
            tell(job)
            if not more:
                return job
            # So many a second, however long they took.
            spent = asyncio.get_running_loop().time() - began
            await _wait(stop, max(0.0, min(AT_ONCE, job.per_second) / job.per_second - spent))
        async with self._sessions() as session:
            return await rewrap_jobs.get_job(session, job_id)

    async def step(self, job_id: UUID) -> bool:
        """Move a few secrets; tell whether there is more to do for us now."""
        now = self._clock()
        async with self._sessions.begin() as session:
            job = await rewrap_jobs.take_job(session, job_id, self._worker, now=now)
            if job is None:
                return False
            kek = await get_kek(session, job.kek_id)
        try:
            kek, target = await self._open_target(kek, is_first=not job.after)
            async with self._sessions() as session:
                rows = await rewrap_jobs.list_misplaced(
                    session, kek, after=job.after, limit=min(AT_ONCE, job.per_second)
                )
            if not rows:
                return await self._end_pass(job, kek)
            for row in rows:
                await self._move(job, row, target)
            await self._tell_progress(kek)
        except VaultError as error:
            return await self._stop_at(job, error)
        return True

    async def _open_target(self, kek: Kek, *, is_first: bool) -> tuple[Kek, ManagedProvider]:
        """Return the KEK with its present version: a pass begins by asking for it."""
        target = await self._keks.open_kek(kek)
        if is_first:
            description = await target.describe()
            async with self._sessions.begin() as session:
                await note_description(session, kek.id, description, now=self._clock())
                kek = await get_kek(session, kek.id)
        return kek, target

    async def _move(self, job: RewrapJob, row: sa.RowMapping, target: ManagedProvider) -> None:
        """Move one secret. Raises: VaultError where the next one would fail as well."""
        table = tables.secrets
        reason, moved = None, 0
        try:
            new = await self._rewrap(row, target)
        except (WrongContext, Corrupted) as error:
            # This row is damaged; the others need not be.
            reason = (error.code, f"secret {row['id']}: {error.message}")
            log.error("secret_not_rewrapped", secret=row["id"], reason=error.code)
        async with self._sessions.begin() as session:
            if reason is None:
                statement = (
                    sa.update(table)
                    .where(
                        table.c.id == row["id"],
                        table.c.wrapped == row["wrapped"],
                        table.c.key_version == row["key_version"],
                    )
                    .values(
                        provider=new.provider,
                        key_id=new.key_id,
                        key_version=new.key_version,
                        wrapped=new.wrapped,
                        rewrapped_at=self._clock(),
                    )
                    .returning(table.c.id)
                )
                moved = len((await session.execute(statement)).all())
            await rewrap_jobs.note_progress(
                session,
                job,
                moved=moved,
                failed=int(reason is not None),
                after=row["id"],
                reason=reason,
                now=self._clock(),
            )

    async def _tell_progress(self, kek: Kek) -> None:
        """Tell whoever watches; the beginning and the end of a job are told by their entries."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._told_at < TELL_EVERY_S:
            return
        self._told_at = now_s
        async with self._sessions.begin() as session:
            await tell(session, [hint_of(kek.id)], now=self._clock())

    async def _rewrap(self, row: sa.RowMapping, target: ManagedProvider) -> WrappedKey:
        """Return the row's working key under the target, verified. Raises: VaultError."""
        context = {"purpose": row["purpose"], "owner": row["owner"]}
        if not compare_digest(bytes(row["context"]), canonical_context(context)):
            raise WrongContext("the row was sealed for another purpose or owner")
        async with self._sessions() as session:
            source = await self._keks.find(session, row["provider"], row["key_id"])
        old = WrappedKey(row["provider"], row["key_id"], row["key_version"], bytes(row["wrapped"]))
        working_key = await source.unwrap(old, context)
        new = await target.wrap(working_key, context)
        if not compare_digest(await target.unwrap(new, context), working_key):
            raise Corrupted("the new key unwraps to something else")
        return new

    async def _end_pass(self, job: RewrapJob, kek: Kek) -> bool:
        """Nothing follows: begin another pass, or end the job. Tell whether it goes on."""
        async with self._sessions.begin() as session:
            left = await rewrap_jobs.count_misplaced(session, kek)
            if left and not job.failed:
                # Something was sealed under the former KEK meanwhile.
                now = self._clock()
                await rewrap_jobs.note_progress(session, job, after="", now=now)
                return True
            failure = None
            if left:
                failure = (job.code or "corrupted", job.reason or f"{left} secrets did not move")
            await rewrap_jobs.finish(session, job, failure=failure, now=self._clock())
        log.info("rewrap_ended", job=str(job.id), moved=job.moved, left=left)
        return False

    async def _stop_at(self, job: RewrapJob, error: VaultError) -> bool:
        """The key itself fails: wait if that may pass, end the job if not."""
        now = self._clock()
        async with self._sessions.begin() as session:
            if error.retriable:
                await rewrap_jobs.postpone(
                    session,
                    job,
                    code=error.code,
                    reason=error.message,
                    until=now + RETRY_AFTER,
                    now=now,
                )
            else:
                await rewrap_jobs.finish(session, job, failure=(error.code, error.message), now=now)
        log.warning("rewrap_stopped", job=str(job.id), reason=error.code)
        return False


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
