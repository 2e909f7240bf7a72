"""Reading deployments, and how far their agents are."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.states import BAD, AgentState, DeploymentState, RollbackState
from tensorguard.store.tables import (
    agent_status,
    agents,
    deployment_agents,
    deployment_stages,
    deployments,
    releases,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A deployment with the release that it rolls out."""

    id: UUID
    release_id: UUID
    release_name: str
    release_version: str
    package_digest: bytes
    fleets: list[str]
    selector: str
    strategy: dict[str, Any]
    state: DeploymentState
    state_reason: str
    salt: bytes
    stage: int
    revision: int
    created_at: datetime
    created_by: str
    started_at: datetime | None
    finished_at: datetime | None
    start_at: datetime | None
    approval_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """A stage: how many agents were in it at the start, and when it began and ended.

    `due` of them had to get the release; `gate` is what its gate said when it decided something.
    """

    stage: int
    percent: int
    agents: int | None
    due: int | None
    gate: dict[str, Any] | None
    held_since: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentAgent:
    """How far one agent is with one deployment, and why it is no further."""

    agent_id: UUID
    name: str
    fleet: str
    presence: str
    stage: int
    state: AgentState
    reason: str
    percent: int | None
    attempts: int
    assigned_at: datetime | None
    notified_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    rollback: RollbackState | None
    rollback_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Agents of a deployment that ended in the same bad state for the same reason."""

    state: AgentState
    reason: str
    agents: int


ACTIVE = (
    DeploymentState.SCHEDULED,
    DeploymentState.RUNNING,
    DeploymentState.PAUSED,
    DeploymentState.ROLLING_BACK,
    DeploymentState.ABORTED,
)
FAILED = (*BAD, AgentState.REJECTED)
_DEPLOYMENTS = sa.select(
    deployments,
    releases.c.name.label("release_name"),
    releases.c.version.label("release_version"),
    releases.c.package_digest,
).join(releases, releases.c.id == deployments.c.release_id)


async def find_deployment(
    session: AsyncSession, deployment_id: UUID, *, lock: bool = False
) -> Deployment | None:
    """Return the deployment with this id; locked until the transaction ends if `lock`."""
    query = _DEPLOYMENTS.where(deployments.c.id == deployment_id)
    if lock:
        query = query.with_for_update(of=deployments, key_share=True)
    row = (await session.execute(query)).mappings().one_or_none()
    return None if row is None else _deployment(row)


async def list_deployments(
    session: AsyncSession,
    *,
    states: Iterable[DeploymentState] = (),
    fleet: str | None = None,
    release: UUID | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[Deployment]:
    """Return deployments, newest first, beyond the id that ended the page before."""
    query = _DEPLOYMENTS.order_by(deployments.c.id.desc())
    if wanted := list(states):
        query = query.where(deployments.c.state.in_(wanted))
    if fleet is not None:
        query = query.where(sa.literal(fleet) == sa.any_(deployments.c.fleets))
    if release is not None:
        query = query.where(deployments.c.release_id == release)
    if after is not None:
        query = query.where(deployments.c.id < after)
    rows = (await session.execute(query.limit(limit))).mappings()
    return [_deployment(row) for row in rows]


async def list_active(session: AsyncSession, limit: int) -> list[Deployment]:
    """Return what the controller has to move or to watch, oldest first."""
    query = (
        _DEPLOYMENTS.where(
            deployments.c.state.in_(ACTIVE),
            deployments.c.finished_at.is_(None),
        )
        .order_by(deployments.c.id)
        .limit(limit)
    )
    return [_deployment(row) for row in (await session.execute(query)).mappings()]


async def count_states(
    session: AsyncSession, deployment_ids: Iterable[UUID]
) -> dict[UUID, dict[AgentState, int]]:
    """Return how many agents of each deployment are in each state; states of nobody are absent."""
    row = deployment_agents.c
    query = (
        sa.select(row.deployment_id, row.state, sa.func.count())
        .where(row.deployment_id.in_(list(deployment_ids)))
        .group_by(row.deployment_id, row.state)
    )
    counts: dict[UUID, dict[AgentState, int]] = {}
    for deployment_id, state, count in await session.execute(query):
        counts.setdefault(deployment_id, {})[AgentState(state)] = count
    return counts


async def count_rollbacks(
    session: AsyncSession, deployment_ids: Iterable[UUID]
) -> dict[UUID, dict[RollbackState, int]]:
    """Return how many agents of each deployment are how far on their way back."""
    row = deployment_agents.c
    query = (
        sa.select(row.deployment_id, row.rollback, sa.func.count())
        .where(row.deployment_id.in_(list(deployment_ids)), row.rollback.is_not(None))
        .group_by(row.deployment_id, row.rollback)
    )
    counts: dict[UUID, dict[RollbackState, int]] = {}
    for deployment_id, state, count in await session.execute(query):
        counts.setdefault(deployment_id, {})[RollbackState(state)] = count
    return counts


async def list_stages(session: AsyncSession, deployment_id: UUID) -> list[StageRow]:
    """Return the stages of a deployment in their order."""
    stage = deployment_stages.c
    query = (
        sa.select(*[stage[name] for name in StageRow.__dataclass_fields__])
        .where(stage.deployment_id == deployment_id)
        .order_by(stage.stage)
    )
    return [StageRow(**row) for row in (await session.execute(query)).mappings()]


async def list_deployment_agents(
    session: AsyncSession,
    deployment_id: UUID,
    *,
    states: Iterable[AgentState] = (),
    stage: int | None = None,
    reason: str | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[DeploymentAgent]:
    """Return the agents of a deployment by rising id, beyond the one that ended the page before."""
    row = deployment_agents.c
    chosen = sa.select(deployment_agents).where(row.deployment_id == deployment_id)
    if wanted := list(states):
        chosen = chosen.where(row.state.in_(wanted))
    if stage is not None:
        chosen = chosen.where(row.stage == stage)
    if reason is not None:
        chosen = chosen.where(row.reason == reason)
    if after is not None:
        chosen = chosen.where(row.agent_id > after)
    # Before the joins: all that is beyond the page would be joined for each page of an export.
    page = chosen.order_by(row.agent_id).limit(limit).subquery("page")
    elsewhere = {"name", "fleet", "presence"}
    query = (
        sa.select(
            agents.c.name,
            agents.c.fleet,
            sa.func.coalesce(agent_status.c.presence, "never").label("presence"),
            *[page.c[one] for one in DeploymentAgent.__dataclass_fields__ if one not in elsewhere],
        )
        .join_from(page, agents, agents.c.id == page.c.agent_id)
        .outerjoin(agent_status, agent_status.c.agent_id == page.c.agent_id)
        .order_by(page.c.agent_id)
    )
    rows = (await session.execute(query)).mappings()
    return [_agent(row) for row in rows]


async def count_failures(
    session: AsyncSession, deployment_id: UUID, *, limit: int
) -> list[Failure]:
    """Return why agents of a deployment do not run it, what concerns the most of them first."""
    row = deployment_agents.c
    count = sa.func.count().label("agents")
    query = (
        sa.select(row.state, row.reason, count)
        .where(row.deployment_id == deployment_id, row.state.in_(FAILED))
        .group_by(row.state, row.reason)
        .order_by(count.desc(), row.state, row.reason)
        .limit(limit)
    )
    rows = (await session.execute(query)).mappings()
    return [Failure(**{**row, "state": AgentState(row["state"])}) for row in rows]


def _agent(row: sa.RowMapping) -> DeploymentAgent:
    rollback = None if row["rollback"] is None else RollbackState(row["rollback"])
    return DeploymentAgent(**{**row, "state": AgentState(row["state"]), "rollback": rollback})


def _deployment(row: sa.RowMapping) -> Deployment:
    return Deployment(**{**row, "state": DeploymentState(row["state"])})
