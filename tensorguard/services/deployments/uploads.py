"""Uploads as the database knows them: whose they are, who writes, and what became of them.

How many bytes there are is known to the package store alone. Whoever touches those holds the
upload's lease, for seconds at a time; when a process dies, another goes on after its lease.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.deployments.upload_errors import LeaseLost, TooManyUploads, UploadNotFound
from tensorguard.services.evidence.event import Actor
from tensorguard.store.ids import new_id
from tensorguard.store.package_store import Place
from tensorguard.store.tables import package_uploads

LEASE: Final = timedelta(seconds=15)
IDLE: Final = timedelta(hours=24)
LONGEST: Final = timedelta(days=7)
_LOCK: Final = 7290436
_UPLOADS: Final = package_uploads

State = Literal["receiving", "verifying", "done", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload; `code`, `message` and `hint` say why it was refused, or what it waits for."""

    id: UUID
    length_bytes: int | None
    metadata: str
    state: State
    store_handle: str | None
    writer: UUID | None
    lease_until: datetime | None
    attempts: int
    verified_bytes: int
    code: str | None
    message: str | None
    hint: str | None
    package_digest: bytes | None
    created_at: datetime
    created_by: str
    created_by_kind: str
    expires_at: datetime

    @property
    def by(self) -> Actor:
        """Whose it is."""
        return Actor(cast(Any, self.created_by_kind), self.created_by)  # it was one's kind

    @property
    def place(self) -> Place:
        """Where its bytes are."""
        return Place(self.id, self.store_handle)


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """How many uploads may be open at a time."""

    per_user: int = 8
    in_all: int = 200


async def create_upload(
    session: AsyncSession,
    *,
    length_bytes: int | None,
    metadata: str = "",
    limits: UploadLimits,
    by: Actor,
    now: datetime,
) -> Upload:
    """Enter an upload that nothing has come of yet. Raises: TooManyUploads."""
    await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    counts = sa.select(
        sa.func.count().filter(_is_of(by)).label("own"), sa.func.count().label("all")
    ).where(_UPLOADS.c.state.in_(("receiving", "verifying")), _UPLOADS.c.expires_at > now)
    own, in_all = (await session.execute(counts)).one()
    if own >= limits.per_user:
        raise TooManyUploads(f"{own} of your uploads are open, and no more may be")
    if in_all >= limits.in_all:
        raise TooManyUploads(f"{in_all} uploads are open on this platform, and no more may be")
    values: dict[str, Any] = {
        "id": new_id(),
        "length_bytes": length_bytes,
        "metadata": metadata,
        "state": "receiving",
        "created_at": now,
        "created_by": by.id,
        "created_by_kind": by.kind,
        "expires_at": now + IDLE,
    }
    statement = sa.insert(_UPLOADS).values(values).returning(_UPLOADS)
    return _upload((await session.execute(statement)).one())


async def set_handle(session: AsyncSession, upload_id: UUID, handle: str | None) -> None:
    """Store what the package store calls an upload."""
    await session.execute(
        sa.update(_UPLOADS).where(_UPLOADS.c.id == upload_id).values(store_handle=handle)
    )


async def get_upload(session: AsyncSession, upload_id: UUID, *, by: Actor, now: datetime) -> Upload:
    """Return one of the actor's own uploads. Raises: UploadNotFound."""
    query = sa.select(_UPLOADS).where(
        _UPLOADS.c.id == upload_id, _is_of(by), _UPLOADS.c.expires_at > now
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise UploadNotFound(f"there is no upload {upload_id}")
    return _upload(row)


async def list_uploads(
    session: AsyncSession, *, by: Actor, after: UUID | None = None, limit: int, now: datetime
) -> list[Upload]:
    """Return the actor's own uploads, newest first, beyond the id that ended the page before."""
    query = sa.select(_UPLOADS).where(_is_of(by), _UPLOADS.c.expires_at > now)
    if after is not None:
        query = query.where(_UPLOADS.c.id < after)
    rows = await session.execute(query.order_by(_UPLOADS.c.id.desc()).limit(limit))
    return [_upload(row) for row in rows]


async def list_due(session: AsyncSession, *, now: datetime, limit: int) -> list[UUID]:
    """Return whole uploads that nobody verifies, the oldest first."""
    query = sa.select(_UPLOADS.c.id).where(
        _UPLOADS.c.state == "verifying", _UPLOADS.c.expires_at > now, _is_free(now)
    )
    return list((await session.execute(query.order_by(_UPLOADS.c.id).limit(limit))).scalars())


async def list_expired(session: AsyncSession, *, now: datetime, limit: int) -> list[UUID]:
    """Return uploads whose time is over and that nobody holds."""
    query = sa.select(_UPLOADS.c.id).where(_UPLOADS.c.expires_at <= now, _is_free(now))
    return list((await session.execute(query.limit(limit))).scalars())


async def list_ids(session: AsyncSession) -> frozenset[UUID]:
    """Return the ids of all uploads."""
    return frozenset((await session.execute(sa.select(_UPLOADS.c.id))).scalars())


async def take_lease(
    session: AsyncSession, upload_id: UUID, writer: UUID, *, now: datetime
) -> Upload | None:
    """Give an upload to one writer for a while; None where another has it, or it is gone."""
    statement = (
        sa.update(_UPLOADS)
        .where(_UPLOADS.c.id == upload_id, _is_free(now))
        .values(writer=writer, lease_until=now + LEASE)
        .returning(_UPLOADS)
    )
    row = (await session.execute(statement)).one_or_none()
    return None if row is None else _upload(row)


async def renew_lease(
    session: AsyncSession, held: Upload, *, verified_bytes: int, now: datetime
) -> bool:
    """Go on holding an upload; False when it is another's by now, or was taken away.

    What comes moves its end on, but not for ever.
    """
    later = sa.func.least(_UPLOADS.c.created_at + LONGEST, now + IDLE)
    statement = (
        sa.update(_UPLOADS)
        .where(_is_held(held), _UPLOADS.c.expires_at > now)
        .values(lease_until=now + LEASE, verified_bytes=verified_bytes, expires_at=later)
    )
    changed = await session.execute(statement)
    return bool(changed.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result counts


async def release(session: AsyncSession, held: Upload) -> None:
    """Hold an upload no more."""
    await session.execute(
        sa.update(_UPLOADS).where(_is_held(held)).values(writer=None, lease_until=None)
    )


async def become(
    session: AsyncSession, held: Upload, state: State, *, now: datetime, **values: Any
) -> Upload:
    """Move a held upload on to another state. Raises: LeaseLost."""
    later = sa.func.least(_UPLOADS.c.created_at + LONGEST, now + IDLE)
    statement = (
        sa.update(_UPLOADS)
        .where(_is_held(held))
        .values(state=state, expires_at=later, attempts=0, **values)
        .returning(_UPLOADS)
    )
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        raise LeaseLost(f"upload {held.id} was taken away meanwhile")
    return _upload(row)


async def postpone(
    session: AsyncSession, held: Upload, told: tuple[str, str, str], *, until: datetime
) -> None:
    """Let an upload wait, and say what for (code, message, hint): nobody takes it before."""
    code, message, hint = told
    statement = (
        sa.update(_UPLOADS)
        .where(_is_held(held))
        .values(
            code=code,
            message=message,
            hint=hint,
            attempts=_UPLOADS.c.attempts + 1,
            writer=new_id(),
            lease_until=until,
        )
    )
    await session.execute(statement)


async def end_upload(session: AsyncSession, upload_id: UUID, *, now: datetime) -> None:
    """Let an upload's time be over; whoever holds it notices, and its bytes are swept away."""
    await session.execute(
        sa.update(_UPLOADS).where(_UPLOADS.c.id == upload_id).values(expires_at=now)
    )


async def forget(session: AsyncSession, held: Upload) -> None:
    """Delete a held upload, of which the store has nothing any more."""
    await session.execute(sa.delete(_UPLOADS).where(_is_held(held)))


def _is_of(by: Actor) -> sa.ColumnElement[bool]:
    return sa.and_(_UPLOADS.c.created_by == by.id, _UPLOADS.c.created_by_kind == by.kind)


def _is_free(now: datetime) -> sa.ColumnElement[bool]:
    return sa.or_(_UPLOADS.c.lease_until.is_(None), _UPLOADS.c.lease_until <= now)


def _is_held(held: Upload) -> sa.ColumnElement[bool]:
    return sa.and_(_UPLOADS.c.id == held.id, _UPLOADS.c.writer == held.writer)


def _upload(row: sa.Row[Any]) -> Upload:
    return Upload(**row._mapping)
