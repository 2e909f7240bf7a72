"""Downloads: which agent may fetch which package, judged at each request."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.deployments.package_urls import check_url
from tensorguard.services.deployments.release_errors import DownloadRefused
from tensorguard.store.tables import agent_desired, agents, packages


@dataclass(frozen=True, slots=True)
class Download:
    """A package file that an agent may fetch."""

    fleet: str
    store_key: str
    file_sha256: bytes


async def admit_download(
    session: AsyncSession,
    url_key: bytes,
    *,
    digest: bytes,
    agent_id: UUID,
    exp: int,
    sig: str,
    now: datetime,
) -> Download:
    """Accept a link of ours, in time, of an active agent that is to run this very package.

    Raises: DownloadRefused, DownloadExpired.
    """
    check_url(url_key, digest=digest, agent_id=agent_id, exp=exp, sig=sig, now=now)
    query = (
        sa.select(agents.c.fleet, packages.c.store_key, packages.c.file_sha256)
        .join(agent_desired, agent_desired.c.agent_id == agents.c.id)
        .join(packages, packages.c.digest == agent_desired.c.package_digest)
        .where(
            agents.c.id == agent_id,
            agents.c.status == "active",
            packages.c.digest == digest,
            packages.c.withdrawn_at.is_(None),
        )
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise DownloadRefused("the agent is not active, or is not to run this package any more")
    return Download(row.fleet, row.store_key, bytes(row.file_sha256))
