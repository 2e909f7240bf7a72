"""Releases: a name and version that stand for one package for ever."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.deployments.deployability import check_deployable
from tensorguard.services.deployments.release_errors import (
    BadRelease,
    PackageWithdrawn,
    ReleaseExists,
    ReleaseNotFound,
)
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, ReleaseCreated, ReleaseWithdrawn
from tensorguard.store.deployments import Deployment
from tensorguard.store.ids import new_id
from tensorguard.store.packages import Package, Release, find_release
from tensorguard.store.tables import releases
from tensorguard.tgsp.versions import is_version

MAX_NAME_CHARACTERS = 64
MAX_NOTES_CHARACTERS = 4000


async def create_release(
    session: AsyncSession,
    *,
    package_digest: bytes,
    name: str | None = None,
    version: str | None = None,
    notes: str = "",
    by: Actor,
    now: datetime,
) -> Release:
    """Make a release of a package, called as the package is unless told otherwise.

    Raises: PackageNotFound, PackageWithdrawn, PublisherNotInForce, BadRelease, ReleaseExists.
    """
    package = await check_deployable(session, package_digest, now)
    release = Release(
        id=new_id(),
        name=package.name if name is None else name,
        version=package.version if version is None else version,
        package_digest=package_digest,
        notes=notes,
        created_at=now,
        created_by=by.id,
        withdrawn_at=None,
    )
    _check(release)
    statement = (
        sa.dialects.postgresql.insert(releases)
        .values({column.name: getattr(release, column.name) for column in releases.c})
        .on_conflict_do_nothing(index_elements=["name", "version"])
        .returning(releases.c.id)
    )
    if (await session.execute(statement)).first() is None:
        raise ReleaseExists(f"{release.name} {release.version} exists already")
    event = ReleaseCreated(
        by=by,
        release_id=release.id,
        release=release.name,
        version=release.version,
        package_digest=package_digest,
    )
    await ledger.record(session, event, now=now)
    return release


async def get_release(session: AsyncSession, release_id: UUID) -> Release:
    """Return the release with this id. Raises: ReleaseNotFound."""
    release = await find_release(session, release_id)
    if release is None:
        raise ReleaseNotFound(f"there is no release {release_id}")
    return release


async def check_release(session: AsyncSession, release: Release, now: datetime) -> Package:
    """Accept a release that may still be deployed at `now`; return its package.

    Raises: PackageNotFound, PackageWithdrawn, PublisherNotInForce.
    """
    if release.withdrawn_at is not None:
        raise PackageWithdrawn(f"release {release.name} {release.version} was withdrawn")
    return await check_deployable(session, release.package_digest, now)


async def check_deployment(session: AsyncSession, deployment: Deployment, now: datetime) -> None:
    """Accept a deployment whose release may go to more agents at `now`.

    Raises: PackageNotFound, PackageWithdrawn, PublisherNotInForce.
    """
    release = await get_release(session, deployment.release_id)
    package = await check_release(session, release, now)
    if package.not_after is not None and package.not_after <= now:
        raise PackageWithdrawn(f"the package has expired at {package.not_after.isoformat()}")


async def withdraw_release(
    session: AsyncSession, release_id: UUID, *, reason: str, by: Actor, now: datetime
) -> Release:
    """Let a release go to nobody else: no new deployment of it, and running ones pause.

    What runs it, runs on. Again changes nothing. Raises: ReleaseNotFound.
    """
    release = await get_release(session, release_id)
    if release.withdrawn_at is not None:
        return release
    await session.execute(
        sa.update(releases).where(releases.c.id == release_id).values(withdrawn_at=now)
    )
    event = ReleaseWithdrawn(by=by, release_id=release_id, reason=reason)
    await ledger.record(session, event, now=now)
    return await get_release(session, release_id)


def _check(release: Release) -> None:
    if not 1 <= len(release.name) <= MAX_NAME_CHARACTERS or not release.name.isprintable():
        raise BadRelease(f"a release's name has 1 to {MAX_NAME_CHARACTERS} printable characters")
    if len(release.version) > MAX_NAME_CHARACTERS or not is_version(release.version):
        raise BadRelease(f"{release.version[:80]!r} is not a semantic version of 64 characters")
    if len(release.notes) > MAX_NOTES_CHARACTERS:
        raise BadRelease(f"notes have at most {MAX_NOTES_CHARACTERS} characters")
