"""Reading fleets: with how many agents they have, and how these are."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.store.tables import agent_status, agents, fleet_configs, fleets


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSummary:
    """A fleet with its configuration and its agents that were not revoked or rejected, counted."""

    slug: str
    name: str
    created_at: datetime
    heartbeat_interval_s: int
    config_revision: int
    agents: int
    online: int
    late: int
    offline: int
    deployments_need_approval: bool


def _summaries() -> sa.Select[Any]:
    presence = agent_status.c.presence
    counts = (
        sa.select(
            agents.c.fleet,
            sa.func.count().label("agents"),
            sa.func.count().filter(presence == "online").label("online"),
            sa.func.count().filter(presence == "late").label("late"),
            sa.func.count().filter(presence == "offline").label("offline"),
        )
        .outerjoin(agent_status, agent_status.c.agent_id == agents.c.id)
        .where(agents.c.status.in_(("pending", "active")))
        .group_by(agents.c.fleet)
        .subquery()
    )
    zero = sa.literal(0)
    return (
        sa.select(
            fleets.c.slug,
            fleets.c.name,
            fleets.c.created_at,
            fleets.c.deployments_need_approval,
            fleet_configs.c.heartbeat_interval_s,
            fleet_configs.c.revision.label("config_revision"),
            *(
                sa.func.coalesce(counts.c[name], zero).label(name)
                for name in ("agents", "online", "late", "offline")
            ),
        )
        .join(fleet_configs, fleet_configs.c.fleet == fleets.c.slug)
        .outerjoin(counts, counts.c.fleet == fleets.c.slug)
    )


async def list_fleets(
    session: AsyncSession, *, after: str | None = None, limit: int = 50
) -> list[FleetSummary]:
    """Return fleets in the order of their slugs."""
    query = _summaries().order_by(fleets.c.slug).limit(limit)
    if after is not None:
        query = query.where(fleets.c.slug > after)
    return [FleetSummary(**row) for row in (await session.execute(query)).mappings()]


async def find_fleet(session: AsyncSession, slug: str) -> FleetSummary | None:
    """Return one fleet, or None if there is none of this slug."""
    query = _summaries().where(fleets.c.slug == slug)
    row = (await session.execute(query)).mappings().one_or_none()
    return None if row is None else FleetSummary(**row)


async def lock_config(session: AsyncSession, slug: str) -> int | None:
    """Return the revision of a fleet's configuration, held until the transaction ends."""
    table = fleet_configs
    query = sa.select(table.c.revision).where(table.c.fleet == slug).with_for_update()
    return (await session.execute(query)).scalar_one_or_none()
