"""Reading what the agents of a deployment ran before it."""

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.states import AgentState
from tensorguard.store.tables import deployment_agents, releases

# Another deployment has them, or none: a rollback of this one changes nothing there.
_ELSEWHERE = (AgentState.SUPERSEDED, AgentState.EXCLUDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Previous:
    """How many agents ran which package before, and what its newest release is called.

    No digest: nothing of this platform.
    """

    package_digest: bytes | None
    name: str | None
    version: str | None
    agents: int


async def list_previous(session: AsyncSession, deployment_id: UUID) -> list[Previous]:
    """Return what the agents go back to that were told of the deployment, the most first."""
    row, count = deployment_agents.c, sa.func.count().label("agents")
    told = (
        sa.select(row.previous_digest, count)
        .where(
            row.deployment_id == deployment_id,
            row.assigned_at.is_not(None) | (row.attempts > 0),
            row.state.not_in(_ELSEWHERE),
        )
        .group_by(row.previous_digest)
        .subquery("told")
    )
    newest = (
        sa.select(releases.c.name, releases.c.version)
        .where(releases.c.package_digest == told.c.previous_digest)
        .order_by(releases.c.id.desc())
        .limit(1)
        .lateral("newest")
    )
    query = (
        sa.select(
            told.c.previous_digest.label("package_digest"),
            newest.c.name,
            newest.c.version,
            told.c.agents,
        )
        .select_from(told.outerjoin(newest, sa.true()))
        .order_by(told.c.agents.desc(), newest.c.version)
    )
    return [Previous(**one) for one in (await session.execute(query)).mappings()]
