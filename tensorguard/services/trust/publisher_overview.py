"""How publishers stand: in the table, in the newest trust bundle, and with the agents."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.trust.publisher_standing import Standing, standing_of
from tensorguard.services.trust.publishers import get_publisher
from tensorguard.store.publishers import (
    Publisher,
    count_active_agents,
    count_packages,
    list_publishers,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherOverview:
    """A publisher and what has become of it.

    `agents_told` of the `agents` that are active have the bundle that says what this says: they
    believe it or, once it is revoked, believe it no more. `awaits_bundle`: there is no such bundle
    yet, and agents have something to learn.
    """

    publisher: Publisher
    state: Standing
    succeeded_by: str | None
    packages: int
    awaits_bundle: bool
    agents: int
    agents_told: int


async def list_publisher_overviews(
    session: AsyncSession, *, now: datetime
) -> list[PublisherOverview]:
    """Return every publisher in the order of registration; they are few."""
    publishers = await list_publishers(session)
    signed = await count_packages(session)
    versions = await count_active_agents(session)
    successors = {
        one.succeeds: one.kid for one in publishers if one.succeeds and one.revoked_at is None
    }
    return [
        _overview(one, successors.get(one.kid), signed.get(one.kid, 0), versions, now)
        for one in publishers
    ]


async def get_publisher_overview(
    session: AsyncSession, kid: str, *, now: datetime
) -> PublisherOverview:
    """Return one publisher. Raises: PublisherNotFound."""
    await get_publisher(session, kid)
    return next(
        one for one in await list_publisher_overviews(session, now=now) if one.publisher.kid == kid
    )


def _overview(
    publisher: Publisher,
    succeeded_by: str | None,
    packages: int,
    versions: dict[int | None, int],
    now: datetime,
) -> PublisherOverview:
    state = standing_of(
        not_before=publisher.not_before,
        not_after=publisher.not_after,
        revoked_at=publisher.revoked_at,
        now=now,
    )
    since = publisher.told_in
    return PublisherOverview(
        publisher=publisher,
        state=state,
        succeeded_by=succeeded_by,
        packages=packages,
        awaits_bundle=since is None and state is not Standing.EXPIRED,
        agents=sum(versions.values()),
        agents_told=sum(
            count
            for version, count in versions.items()
            if since is not None and version is not None and version >= since
        ),
    )
