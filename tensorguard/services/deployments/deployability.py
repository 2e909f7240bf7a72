"""Whether a package may be deployed now: not withdrawn, and on the word of a publisher who counts.

The platform goes by its table, an agent by its trust bundle: a package may be released as soon as
the first says yes, and be handed out when both do.
"""

from datetime import datetime

from msgspec import UnsetType
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.deployments.packages import get_package
from tensorguard.services.deployments.release_errors import (
    PackageWithdrawn,
    PublisherNotInForce,
    PublisherUnpublished,
)
from tensorguard.services.trust.publisher_standing import Objection, find_objection
from tensorguard.services.trust.trust import get_latest_bundle
from tensorguard.store.packages import Package
from tensorguard.store.publishers import Publisher, find_publisher
from tensorguard.tgsp.signing import covers


def object_to(
    publisher: Publisher, *, package: str, withdrawn_at: datetime | None, now: datetime
) -> Objection | None:
    """Return why a package of that name by this publisher may not be deployed now, if so."""
    if withdrawn_at is not None:
        return Objection("package-withdrawn", f"the package of {package!r} was withdrawn")
    return find_objection(publisher, package, now)


async def check_deployable(session: AsyncSession, package_digest: bytes, now: datetime) -> Package:
    """Accept a package that the platform would deploy at `now`.

    Raises: PackageNotFound, PackageWithdrawn, PublisherNotInForce.
    """
    package = await get_package(session, package_digest)
    publisher = await find_publisher(session, package.publisher_kid)
    assert publisher is not None  # the database sees to it
    objection = object_to(
        publisher, package=package.name, withdrawn_at=package.withdrawn_at, now=now
    )
    if objection is None:
        return package
    if objection.code in ("package-withdrawn", "publisher-revoked"):
        raise PackageWithdrawn(objection.message)
    raise PublisherNotInForce(objection.message)


async def check_believed(session: AsyncSession, package_digest: bytes, now: datetime) -> None:
    """Accept a package that agents would open, too, with the newest trust bundle.

    Raises: as `check_deployable`; PublisherUnpublished, PlatformNotInitialised.
    """
    package = await check_deployable(session, package_digest, now)
    newest = await get_latest_bundle(session)
    for one in newest.bundle.publishers:
        begun = isinstance(one.not_before, UnsetType) or one.not_before <= now
        if one.kid == package.publisher_kid and begun and now < one.not_after:
            if covers(one.names, package.name):
                return
            break
    raise PublisherUnpublished(
        f"trust bundle {newest.version}, the newest, does not let publisher {package.publisher_kid}"
        f" sign {package.name!r}: agents would refuse it"
    )
