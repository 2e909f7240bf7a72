"""Reading packages and releases."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.store.tables import packages, releases

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An uploaded package; `manifest` are the exact bytes that were signed."""

    digest: bytes
    name: str
    version: str
    seq: int
    publisher_kid: str
    manifest: bytes
    size_bytes: int
    file_sha256: bytes
    store_key: str
    dek_secret_id: str
    not_before: datetime
    not_after: datetime | None
    uploaded_at: datetime
    uploaded_by: str
    withdrawn_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A name and version that stand for a package; never changed."""

    id: UUID
    name: str
    version: str
    package_digest: bytes
    notes: str
    created_at: datetime
    created_by: str
    withdrawn_at: datetime | None


async def find_package(session: AsyncSession, digest: bytes) -> Package | None:
    """Return the package with this digest."""
    return await _find(session, Package, sa.select(packages).where(packages.c.digest == digest))


async def list_packages(
    session: AsyncSession,
    *,
    name: str | None = None,
    publisher: str | None = None,
    after: tuple[datetime, bytes] | None = None,
    limit: int,
) -> list[Package]:
    """Return packages, newest upload first, beyond the (uploaded_at, digest) of the page before.

    `publisher`: the key id of the one who answers for them.
    """
    place = sa.tuple_(packages.c.uploaded_at, packages.c.digest)
    query = sa.select(packages).order_by(packages.c.uploaded_at.desc(), packages.c.digest.desc())
    if name is not None:
        query = query.where(packages.c.name == name)
    if publisher is not None:
        query = query.where(packages.c.publisher_kid == publisher)
    if after is not None:
        query = query.where(place < sa.tuple_(*after))
    rows = (await session.execute(query.limit(limit))).mappings()
    return [Package(**row) for row in rows]


async def find_release(session: AsyncSession, release_id: UUID) -> Release | None:
    """Return the release with this id."""
    return await _find(session, Release, sa.select(releases).where(releases.c.id == release_id))


async def list_releases(
    session: AsyncSession,
    *,
    name: str | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[Release]:
    """Return releases, newest first, beyond the id that ended the page before."""
    query = sa.select(releases).order_by(releases.c.id.desc())
    if name is not None:
        query = query.where(releases.c.name == name)
    if after is not None:
        query = query.where(releases.c.id < after)
    rows = (await session.execute(query.limit(limit))).mappings()
    return [Release(**row) for row in rows]


async def _find(session: AsyncSession, kind: type[_T], query: sa.Select[Any]) -> _T | None:
    row = (await session.execute(query)).mappings().one_or_none()
    return None if row is None else kind(**row)
