"""Where releases run now, and the deployments of a period."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.compliance.period import Scope
from tensorguard.store.tables import (
    Time,
    agent_status,
    agents,
    deployment_agents,
    deployments,
    packages,
    releases,
)

MOST_DEPLOYMENTS: Final = 50
MOST_PACKAGES: Final = 100


class RunningPackage(msgspec.Struct, frozen=True, kw_only=True):
    """How many active agents say that they run a package; None of one that runs none.

    `name` and `version` are None where the platform does not have it.
    """

    digest: bytes | None
    name: str | None
    version: str | None
    releases: Sequence[str]
    agents: int


class PeriodDeployment(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment that was there in the period, as it is now; `agents` by their state."""

    id: UUID
    release: str
    package_digest: bytes
    fleets: Sequence[str]
    state: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    agents: Mapping[str, int]


async def list_running(session: AsyncSession, fleet: str | None) -> list[RunningPackage]:
    """Return what active agents run, the most frequent first; at most MOST_PACKAGES packages."""
    digest, many = agent_status.c.running_digest, sa.func.count().label("agents")
    counted = (
        sa.select(digest, many)
        .select_from(agents)
        .outerjoin(agent_status, agent_status.c.agent_id == agents.c.id)
        .where(agents.c.status == "active", *([agents.c.fleet == fleet] if fleet else []))
        .group_by(digest)
        .order_by(many.desc(), digest)
        .limit(MOST_PACKAGES)
        .subquery("counted")
    )
    named = (
        sa.select(sa.func.array_agg(releases.c.name + " " + releases.c.version))
        .where(releases.c.package_digest == counted.c.running_digest)
        .correlate(counted)
        .scalar_subquery()
    )
    query = (
        sa.select(
            counted.c.running_digest,
            packages.c.name,
            packages.c.version,
            named.label("releases"),
            counted.c.agents,
        )
        .select_from(counted)
        .outerjoin(packages, packages.c.digest == counted.c.running_digest)
        .order_by(counted.c.agents.desc(), counted.c.running_digest)
    )
    return [
        RunningPackage(
            digest=row.running_digest,
            name=row.name,
            version=row.version,
            releases=sorted(row.releases or []),
            agents=row.agents,
        )
        for row in await session.execute(query)
    ]


async def list_deployments(
    session: AsyncSession, scope: Scope
) -> tuple[list[PeriodDeployment], int]:
    """Return the newest deployments that were there in the period, and how many others were."""
    table = deployments.c
    was_there = [
        table.created_at < sa.literal(scope.until, Time),
        sa.or_(table.finished_at.is_(None), table.finished_at >= sa.literal(scope.since, Time)),
    ]
    if scope.fleet is not None:
        was_there.append(sa.literal(scope.fleet) == sa.any_(table.fleets))
    query = (
        sa.select(
            table.id,
            (releases.c.name + " " + releases.c.version).label("release"),
            releases.c.package_digest,
            table.fleets,
            table.state,
            table.created_at,
            table.started_at,
            table.finished_at,
            sa.func.count().over().label("all"),
        )
        .join(releases, releases.c.id == table.release_id)
        .where(*was_there)
        .order_by(table.created_at.desc(), table.id)
        .limit(MOST_DEPLOYMENTS)
    )
    rows = (await session.execute(query)).mappings().all()
    states = await _agents_of(session, [row["id"] for row in rows], scope.fleet)
    found = [
        PeriodDeployment(
            **{name: row[name] for name in row if name != "all"}, agents=states.get(row["id"], {})
        )
        for row in rows
    ]
    return found, (rows[0]["all"] - len(rows) if rows else 0)


async def _agents_of(
    session: AsyncSession, ids: Sequence[UUID], fleet: str | None
) -> dict[UUID, dict[str, int]]:
    table = deployment_agents.c
    query = (
        sa.select(table.deployment_id, table.state, sa.func.count())
        .where(table.deployment_id.in_(ids))
        .group_by(table.deployment_id, table.state)
        .order_by(table.deployment_id, table.state)
    )
    if fleet is not None:
        query = query.join(agents, agents.c.id == table.agent_id).where(agents.c.fleet == fleet)
    found: dict[UUID, dict[str, int]] = {}
    for deployment_id, state, many in await session.execute(query):
        found.setdefault(deployment_id, {})[state] = many
    return found
