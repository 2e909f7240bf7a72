"""Jobs that move secrets under the present version of a KEK, as the database knows them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import RewrapEnded, RewrapFailed, RewrapStarted
from tensorguard.services.hints import tell
from tensorguard.services.keys.kek_changes import retire_unneeded
from tensorguard.services.keys.keks import Kek, get_kek, hint_of
from tensorguard.services.keys.key_errors import KekRetired, RewrapJobNotFound
from tensorguard.store import tables
from tensorguard.store.ids import new_id

DEFAULT_PER_SECOND: Final = 20
MAX_PER_SECOND: Final = 1000
LEASE: Final = timedelta(seconds=60)
_JOBS: Final = tables.rewrap_jobs
_SECRETS: Final = tables.secrets

Kind = Literal["rewrap", "migrate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrapJob:
    """A job and how far it is; `code` and `reason` say what it waits for or why it failed."""

    id: UUID
    kek_id: UUID
    kind: Kind
    state: Literal["running", "done", "failed"]
    per_second: int
    total: int
    moved: int
    failed: int
    after: str
    code: str | None
    reason: str | None
    retry_at: datetime | None
    worker: str | None
    lease_until: datetime | None
    created_at: datetime
    created_by: str
    created_by_kind: str
    updated_at: datetime
    finished_at: datetime | None

    @property
    def by(self) -> Actor:
        """Who has started it."""
        return Actor(cast(Any, self.created_by_kind), self.created_by)  # it was one's kind


async def start_rewrap(
    session: AsyncSession,
    kek: Kek,
    *,
    kind: Kind = "rewrap",
    per_second: int = DEFAULT_PER_SECOND,
    by: Actor,
    now: datetime,
) -> RewrapJob:
    """Start to move everything that belongs under a KEK; a running job is returned as it is.

    Raises: KekNotFound, KekRetired.
    """
    kek = await get_kek(session, kek.id, lock=True)
    if kek.state != "active":
        raise KekRetired("nothing is moved to a KEK that wraps nothing new")
    running = sa.select(_JOBS).where(_JOBS.c.kek_id == kek.id, _JOBS.c.state == "running")
    if (row := (await session.execute(running)).one_or_none()) is not None:
        return _job(row)
    job_id, total = new_id(), await count_misplaced(session, kek)
    values: dict[str, Any] = {
        "id": job_id,
        "kek_id": kek.id,
        "kind": kind,
        "state": "running",
        "per_second": per_second,
        "total": total,
        "created_at": now,
        "created_by": by.id,
        "created_by_kind": by.kind,
        "updated_at": now,
    }
    await session.execute(sa.insert(_JOBS).values(values))
    event = RewrapStarted(
        by=by, fleet=kek.fleet, kek_id=kek.id, job_id=job_id, kind=kind, secrets=total
    )
    await ledger.record(session, event, now=now)
    return await get_job(session, job_id)


async def get_job(session: AsyncSession, job_id: UUID) -> RewrapJob:
    """Return a job. Raises: RewrapJobNotFound."""
    row = (await session.execute(sa.select(_JOBS).where(_JOBS.c.id == job_id))).one_or_none()
    if row is None:
        raise RewrapJobNotFound(f"there is no rewrap job {job_id}")
    return _job(row)


async def list_latest_jobs(session: AsyncSession) -> Mapping[UUID, RewrapJob]:
    """Return the last job of each KEK."""
    query = sa.select(_JOBS).ext(distinct_on(_JOBS.c.kek_id))
    rows = await session.execute(query.order_by(_JOBS.c.kek_id, _JOBS.c.created_at.desc()))
    return {row.kek_id: _job(row) for row in rows}


async def list_due_jobs(session: AsyncSession, *, now: datetime) -> list[UUID]:
    """Return the jobs that nobody works on and that need not wait."""
    query = sa.select(_JOBS.c.id).where(
        _JOBS.c.state == "running",
        sa.or_(_JOBS.c.lease_until.is_(None), _JOBS.c.lease_until <= now),
        sa.or_(_JOBS.c.retry_at.is_(None), _JOBS.c.retry_at <= now),
    )
    return list((await session.execute(query.order_by(_JOBS.c.created_at))).scalars())


async def take_job(
    session: AsyncSession, job_id: UUID, worker: str, *, now: datetime
) -> RewrapJob | None:
    """Take or renew the lease of a running job; None where another worker has it."""
    statement = (
        sa.update(_JOBS)
        .where(
            _JOBS.c.id == job_id,
            _JOBS.c.state == "running",
            sa.or_(
                _JOBS.c.lease_until.is_(None),
                _JOBS.c.lease_until <= now,
                _JOBS.c.worker == worker,
            ),
        )
        .values(
            worker=worker,
            lease_until=now + LEASE,
            retry_at=None,
            # What it has waited for is over; why a secret has failed is not.
            code=sa.case((_JOBS.c.retry_at.is_not(None), None), else_=_JOBS.c.code),
            reason=sa.case((_JOBS.c.retry_at.is_not(None), None), else_=_JOBS.c.reason),
        )
        .returning(_JOBS)
    )
    row = (await session.execute(statement)).one_or_none()
    return None if row is None else _job(row)


async def list_misplaced(
    session: AsyncSession, kek: Kek, *, after: str, limit: int
) -> list[sa.RowMapping]:
    """Return secrets that belong under the present version of a KEK and are not, by id."""
    query = (
        sa.select(_SECRETS)
        .where(_is_misplaced(kek), _SECRETS.c.id > after)
        .order_by(_SECRETS.c.id)
        .limit(limit)
    )
    return list((await session.execute(query)).mappings())


async def count_misplaced(session: AsyncSession, kek: Kek) -> int:
    """Return how many secrets are still to be moved under the present version of a KEK."""
    query = sa.select(sa.func.count()).select_from(_SECRETS).where(_is_misplaced(kek))
    return int((await session.execute(query)).scalar_one())


async def count_all_misplaced(session: AsyncSession) -> dict[UUID, int]:
    """Return, in one query, how many secrets each KEK waits for that wraps what is new."""
    kek = tables.keks
    # Not IS NOT DISTINCT FROM: the database joins by hash only where it finds an equality.
    same_fleet = sa.func.coalesce(_SECRETS.c.fleet, "") == sa.func.coalesce(kek.c.fleet, "")
    version = sa.func.coalesce(kek.c.key_version, "")
    elsewhere = _is_elsewhere(kek.c.provider, kek.c.key_id, version)
    query = (
        sa.select(kek.c.id, sa.func.count())
        .join_from(kek, _SECRETS, sa.and_(same_fleet, elsewhere))
        .where(kek.c.state == "active")
        .group_by(kek.c.id)
    )
    return {kek_id: count for kek_id, count in await session.execute(query)}


async def note_progress(
    session: AsyncSession,
    job: RewrapJob,
    *,
    moved: int = 0,
    failed: int = 0,
    after: str,
    reason: tuple[str, str] | None = None,
    now: datetime,
) -> None:
    """Store how far a worker has come that still has the lease."""
    values: dict[str, Any] = {
        "moved": _JOBS.c.moved + moved,
        "failed": _JOBS.c.failed + failed,
        "after": after,
        "updated_at": now,
    }
    if reason is not None:
        values |= {"code": reason[0], "reason": reason[1]}
    await session.execute(sa.update(_JOBS).where(_is_ours(job)).values(values))


async def postpone(
    session: AsyncSession, job: RewrapJob, *, code: str, reason: str, until: datetime, now: datetime
) -> None:
    """Let a job wait, and say what for; whoever watches is told."""
    values = {"code": code, "reason": reason, "retry_at": until, "updated_at": now}
    await session.execute(
        sa.update(_JOBS).where(_is_ours(job)).values(values | {"lease_until": None})
    )
    await tell(session, [hint_of(job.kek_id)], now=now)


async def finish(
    session: AsyncSession, job: RewrapJob, *, failure: tuple[str, str] | None, now: datetime
) -> bool:
    """End a job, with its event; KEKs that nothing needs any more are retired. False: not ours."""
    state = "done" if failure is None else "failed"
    values: dict[str, Any] = {
        "state": state,
        "finished_at": now,
        "updated_at": now,
        "lease_until": None,
        "code": failure and failure[0],
        "reason": failure and failure[1],
    }
    statement = sa.update(_JOBS).where(_is_ours(job)).values(values).returning(_JOBS)
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        return False
    ended, kek = _job(row), await get_kek(session, job.kek_id)
    told: dict[str, Any] = {
        "by": ended.by,
        "fleet": kek.fleet,
        "kek_id": kek.id,
        "job_id": ended.id,
        "moved": ended.moved,
    }
    if failure is None:
        await ledger.record(session, RewrapEnded(**told), now=now)
        await retire_unneeded(session, by=ended.by, now=now)
    else:
        event = RewrapFailed(**told, failed=ended.failed, reason=failure[0])
        await ledger.record(session, event, now=now)
    return True


def _is_misplaced(kek: Kek) -> sa.ColumnElement[bool]:
    elsewhere = _is_elsewhere(kek.provider, kek.key_id, kek.key_version or "")
    return sa.and_(_SECRETS.c.fleet.is_not_distinct_from(kek.fleet), elsewhere)


def _is_elsewhere(
    provider: str | sa.ColumnElement[str],
    key_id: str | sa.ColumnElement[str],
    version: str | sa.ColumnElement[str],
) -> sa.ColumnElement[bool]:
    """Whether a secret is under another key, or another version of it."""
    return sa.or_(
        _SECRETS.c.provider != provider,
        _SECRETS.c.key_id != key_id,
        _SECRETS.c.key_version != version,
    )


def _is_ours(job: RewrapJob) -> sa.ColumnElement[bool]:
    return sa.and_(_JOBS.c.id == job.id, _JOBS.c.state == "running", _JOBS.c.worker == job.worker)


def _job(row: sa.Row[Any]) -> RewrapJob:
    return RewrapJob(**row._mapping)
