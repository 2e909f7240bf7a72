"""The whole platform in a few aggregate queries."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.store.tables import (
    Time,
    agent_state,
    agent_status,
    agents,
    broker_fronts,
    deployments,
    fleet_configs,
    fleets,
    ledger_checkpoints,
    ledger_entries,
    ledger_unsequenced,
    packages,
    platform,
    releases,
)


async def count_agents_by_status(session: AsyncSession) -> dict[str, int]:
    """Return how many agents there are of each status."""
    return await _counted(session, sa.select(agents.c.status, sa.func.count()).group_by("status"))


async def count_agents_by_presence(session: AsyncSession) -> dict[str, int]:
    """Return how many active agents there are of each presence."""
    presence = sa.func.coalesce(agent_status.c.presence, "never").label("presence")
    return await _counted(
        session,
        sa.select(presence, sa.func.count())
        .select_from(agents)
        .outerjoin(agent_status, agent_status.c.agent_id == agents.c.id)
        .where(agents.c.status == "active")
        .group_by(presence),
    )


async def count_agents_by_trust(session: AsyncSession) -> dict[str, int]:
    """Return how many active agents are trusted, on watch, quarantined and compromised."""
    score = sa.func.coalesce(agent_status.c.trust_score, 100)
    band = sa.case(
        (score >= 80, "trusted"),
        (score >= 50, "watch"),
        (score >= 20, "quarantined"),
        else_="compromised",
    ).label("band")
    return await _counted(
        session,
        sa.select(band, sa.func.count())
        .select_from(agents)
        .outerjoin(agent_status, agent_status.c.agent_id == agents.c.id)
        .where(agents.c.status == "active")
        .group_by(band),
    )


async def count_deployments_by_state(session: AsyncSession) -> dict[str, int]:
    """Return how many deployments there are of each state."""
    return await _counted(
        session, sa.select(deployments.c.state, sa.func.count()).group_by("state")
    )


async def get_totals(session: AsyncSession, *, now: datetime) -> sa.RowMapping:
    """Return how many there are of everything else, and how far the ledger is."""
    epoch = sa.select(platform.c.epoch).scalar_subquery()
    ledger_size = sa.select(
        sa.func.coalesce(sa.func.max(ledger_entries.c.leaf_index) + 1, 0)
    ).where(ledger_entries.c.epoch == epoch)
    query = sa.select(
        _count(fleets).label("fleets"),
        _count(packages).label("packages"),
        _count(releases).label("releases"),
        ledger_size.scalar_subquery().label("ledger_size"),
        _count(ledger_unsequenced).label("ledger_unsequenced"),
        sa.select(sa.func.max(ledger_checkpoints.c.signed_at))
        .scalar_subquery()
        .label("ledger_signed_at"),
        sa.select(sa.func.count())
        .where(broker_fronts.c.lease_until > now)
        .scalar_subquery()
        .label("broker_fronts"),
    )
    return (await session.execute(query)).mappings().one()


async def get_heartbeat_rate(session: AsyncSession, *, now: datetime) -> float:
    """Return how many heartbeats a second arrive: of each fleet the agents that were heard within
    its last interval, so that one aggregate over the latest states does."""
    interval_s = fleet_configs.c.heartbeat_interval_s
    length = sa.func.make_interval(0, 0, 0, 0, 0, 0, interval_s)
    query = (
        sa.select(sa.func.coalesce(sa.func.sum(1.0 / interval_s), 0.0))
        .select_from(agent_state)
        .join(agents, agents.c.id == agent_state.c.agent_id)
        .join(fleet_configs, fleet_configs.c.fleet == agents.c.fleet)
        .where(agent_state.c.received_at > sa.literal(now, Time) - length)
    )
    return float((await session.execute(query)).scalar_one())


def _count(table: sa.Table) -> sa.ScalarSelect[int]:
    return sa.select(sa.func.count()).select_from(table).scalar_subquery()


async def _counted(session: AsyncSession, query: sa.Executable) -> dict[str, int]:
    return {row[0]: row[1] for row in await session.execute(query)}
