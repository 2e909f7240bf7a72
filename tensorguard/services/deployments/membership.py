"""Who is in a deployment and in which of its stages: previewed, settled at the start, kept true."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.selector import parse_selector
from tensorguard.rollouts.stages import EVERYONE, NOBODY, check_stratified, stage_sizes
from tensorguard.rollouts.states import AgentState
from tensorguard.rollouts.strategy import Strategy, parse_strategy
from tensorguard.services.deployments.packages import get_package
from tensorguard.services.deployments.release_errors import NoEligibleAgents
from tensorguard.store.candidates import (
    Audience,
    candidates,
    count_candidates,
    count_placed,
    describe_stages,
    places,
    stage_at,
)
from tensorguard.store.deployments import Deployment
from tensorguard.store.tables import Time, deployment_agents, deployment_stages
from tensorguard.tgsp import manifest as manifests

SAMPLE_AGENTS: Final = 10


@dataclass(frozen=True, slots=True)
class Group:
    """Agents that would start in the same state for the same reason, and a few of them."""

    state: AgentState
    reason: str
    agents: int
    sample: list[UUID]


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """What a stage adds: agents, those that have to get the release, and the first few by lot."""

    percent: int
    agents: int
    due: int
    sample: list[UUID]


@dataclass(frozen=True, slots=True)
class Preview:
    """What would start: agents in each stage, and every group of agents."""

    stages: list[int]
    groups: list[Group]
    planned: list[PlannedStage]


@dataclass(frozen=True, slots=True)
class _Stage:
    percent: int
    agents: int
    due: int
    cutoff: bytes
    sample: list[UUID]


def strategy_of(deployment: Deployment) -> Strategy:
    """Return the deployment's strategy as a type."""
    return parse_strategy(deployment.strategy)


async def make_audience(
    session: AsyncSession,
    digest: bytes,
    slugs: Sequence[str],
    selector: str,
    salt: bytes,
    stratify: str | None,
) -> Audience:
    """Return whom a package is for, by these words and by its manifest.

    Raises: PackageNotFound, BadSelector.
    """
    package = await get_package(session, digest)
    target = manifests.decode(package.manifest).target
    return Audience(
        salt=salt,
        fleets=tuple(slugs),
        selector=parse_selector(selector),
        target_fleets=target.fleets,
        target_selector=parse_selector(target.selector),
        package_digest=digest,
        stratify=stratify,
    )


async def audience_of(session: AsyncSession, deployment: Deployment) -> Audience:
    """Return whom the deployment is for."""
    return await make_audience(
        session,
        deployment.package_digest,
        deployment.fleets,
        deployment.selector,
        deployment.salt,
        strategy_of(deployment).stratify,
    )


async def preview(session: AsyncSession, audience: Audience, strategy: Strategy) -> Preview:
    """Return who would get the release if this started now, and who not, and why.

    Raises: StageTooSmall.
    """
    rows = await session.execute(count_candidates(audience, SAMPLE_AGENTS))
    groups = [
        Group(AgentState(state), reason, count, list(ids)) for state, reason, count, ids in rows
    ]
    stages = await _plan_stages(session, audience, strategy)
    planned = [PlannedStage(one.percent, one.agents, one.due, one.sample) for one in stages]
    return Preview([one.agents for one in stages], groups, planned)


async def settle_stages(session: AsyncSession, deployment: Deployment, now: datetime) -> None:
    """Fix the cut-offs, and put every agent into its stage.

    Raises: NoEligibleAgents, StageTooSmall.
    """
    audience = await audience_of(session, deployment)
    stages = await _plan_stages(session, audience, strategy_of(deployment))
    if not sum(stage.agents for stage in stages):
        raise NoEligibleAgents("no agent of these fleets matches the selector and the package")
    for index, stage in enumerate(stages):
        await session.execute(
            sa.insert(deployment_stages).values(
                deployment_id=deployment.id,
                stage=index,
                percent=stage.percent,
                cutoff=stage.cutoff,
                agents=stage.agents,
                due=stage.due,
                started_at=now if index == 0 else None,
            )
        )
    placed = places(candidates(audience))
    ends = list(accumulate(stage.agents for stage in stages))
    rows = _rows(placed, deployment, stage_at(placed, ends), now)
    await session.execute(insert(deployment_agents).from_select(rows.selected_columns.keys(), rows))


async def follow_members(
    session: AsyncSession, deployment: Deployment, now: datetime
) -> tuple[int, int]:
    """Take in whoever is asked for by now, into the stage that its h is in; let go of whoever is
    not any more and has not been told yet. Returns how many of each.
    """
    found = candidates(await audience_of(session, deployment))
    row, stage = deployment_agents.c, deployment_stages.c
    cutoff = (
        sa.select(sa.func.min(stage.stage))
        .where(stage.deployment_id == deployment.id, stage.cutoff >= found.c.h)
        .scalar_subquery()
    )
    # NOT IN is hashed once, whatever the planner believes of tables that were empty a moment ago;
    # an anti-join of those scans the table again for each row, while it grows.
    known = sa.select(row.agent_id).where(
        row.deployment_id == deployment.id, row.state != AgentState.EXCLUDED
    )
    rows = _rows(found, deployment, cutoff, now).where(found.c.agent_id.not_in(known))
    adding = insert(deployment_agents).from_select(rows.selected_columns.keys(), rows)
    added = (
        adding.on_conflict_do_update(
            index_elements=["deployment_id", "agent_id"],
            set_={
                name: adding.excluded[name]
                for name in ("state", "reason", "previous_digest", "finished_at", "updated_at")
            },
            where=(row.state == AgentState.EXCLUDED)
            & (adding.excluded.state != AgentState.EXCLUDED),
        )
        .returning(row.agent_id)
        .cte("added")
    )
    asked_for = sa.select(found.c.agent_id).where(found.c.state != AgentState.EXCLUDED)
    why = sa.select(found.c.reason).where(found.c.agent_id == row.agent_id).scalar_subquery()
    left = (
        sa.update(deployment_agents)
        .where(
            row.deployment_id == deployment.id,
            row.state == AgentState.PENDING,
            row.assigned_at.is_(None),
            row.agent_id.not_in(asked_for),
        )
        .values(
            state=AgentState.EXCLUDED,
            reason=sa.func.coalesce(why, "not selected any more"),
            finished_at=now,
            updated_at=now,
        )
        .returning(row.agent_id)
        .cte("gone")
    )
    counts: sa.Select[Any] = sa.select(
        sa.select(sa.func.count()).select_from(added).scalar_subquery(),
        sa.select(sa.func.count()).select_from(left).scalar_subquery(),
    )
    joined, gone = (await session.execute(counts)).one()
    return int(joined), int(gone)


def _rows(
    found: sa.CTE, deployment: Deployment, stage: sa.ColumnElement[int], now: datetime
) -> sa.Select[tuple[object, ...]]:
    return sa.select(
        sa.literal(deployment.id, sa.Uuid).label("deployment_id"),
        found.c.agent_id,
        stage.label("stage"),
        found.c.state,
        found.c.reason,
        found.c.previous_digest,
        sa.case((found.c.state != AgentState.PENDING, sa.literal(now, Time))).label("finished_at"),
        sa.literal(now, Time).label("updated_at"),
    )


async def _plan_stages(
    session: AsyncSession, audience: Audience, strategy: Strategy
) -> list[_Stage]:
    """Return what every stage would have; the cut-offs do not see those chosen for their tag.

    Raises: StageTooSmall.
    """
    eligible, strata = (await session.execute(count_placed(audience))).one()
    percents = [stage.percent for stage in strategy.stages]
    check_stratified(percents[0], eligible, strata, strategy.stratify or "")
    sizes = stage_sizes(percents, eligible)
    ends = list(accumulate(sizes))
    found = {
        row.stage: row
        for row in await session.execute(describe_stages(audience, ends, SAMPLE_AGENTS))
    }
    stages, cutoff = [], NOBODY
    for index, (percent, size) in enumerate(zip(percents, sizes, strict=True)):
        row = found.get(index)
        if row is not None and row.highest is not None:
            cutoff = max(cutoff, bytes(row.highest))
        stages.append(
            _Stage(
                percent=percent,
                agents=size,
                due=0 if row is None else row.due,
                cutoff=EVERYONE if percent == 100 else cutoff,
                sample=[] if row is None else list(row.sample or ()),
            )
        )
    return stages
