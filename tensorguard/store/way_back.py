"""Reading what the agents of a deployment ran before it."""

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.states import AgentState
from tensorguard.store.tables import deployment_agents, packages

# Another deployment has them, or none: a rollback of this one changes nothing there.
_ELSEWHERE = (AgentState.SUPERSEDED, AgentState.EXCLUDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Previous:
    """How many agents ran which package before; no digest: nothing of this platform."""

    package_digest: bytes | None
    name: str | None
    version: str | None
    agents: int


async def list_previous(session: AsyncSession, deployment_id: UUID) -> list[Previous]:
    """Return what the agents go back to that were told of the deployment, the most first."""
    row, count = deployment_agents.c, sa.func.count().label("agents")
    query = (
        sa.select(
            row.previous_digest.label("package_digest"),
            packages.c.name,
            packages.c.version,
            count,
        )
        .outerjoin(packages, packages.c.digest == row.previous_digest)
        .where(
            row.deployment_id == deployment_id,
            row.assigned_at.is_not(None) | (row.attempts > 0),
            row.state.not_in(_ELSEWHERE),
        )
        .group_by(row.previous_digest, packages.c.name, packages.c.version)
        .order_by(count.desc(), packages.c.version)
    )
    return [Previous(**one) for one in (await session.execute(query)).mappings()]
