"""Who is in a deployment and in which of its stages: previewed, settled at the start, kept true."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
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
    places,
    previous_digest,
    summarize,
)
from tensorguard.store.deployments import Deployment
from tensorguard.store.tables import Time, agents, deployment_agents, deployment_stages
from tensorguard.tgsp import manifest as manifests

SAMPLE_AGENTS: Final = 10
FOLLOWED_AGENTS: Final = 5_000
FIRST: Final = UUID(int=0)
LAST: Final = UUID(int=2**128 - 1)
# A hundred thousand agents are sorted in memory: a few megabytes for each of a few sorts.
_ROOM: Final = sa.text("SELECT set_config('work_mem', '64MB', true)")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """How many have joined and how many are gone, and after whom to go on; FIRST: seen them all."""

    joined: int
    gone: int
    after: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Agents of one stage that start in the same state for the same reason; no stage: excluded.

    `first` are the places and ids of a few, `highest` the h of the last of the stage.
    """

    stage: int | None
    state: AgentState
    reason: str
    agents: int
    chosen: int
    highest: bytes | None
    first: list[tuple[int, UUID]]


@dataclass(frozen=True, slots=True, kw_only=True)
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
    placed = places(candidates(audience), _percents(strategy))
    await session.execute(_ROOM)
    parts = _parts(await session.execute(summarize(placed, SAMPLE_AGENTS)))
    stages = _stages(parts, strategy)
    planned = [PlannedStage(one.percent, one.agents, one.due, one.sample) for one in stages]
    return Preview([one.agents for one in stages], _groups(parts), planned)


async def settle_stages(session: AsyncSession, deployment: Deployment, now: datetime) -> None:
    """Fix the cut-offs, and put every agent into its stage.

    All agents are read once: what is wrong shows when they are placed, and undoing that is the
    caller's. Raises: NoEligibleAgents, StageTooSmall.
    """
    audience = await audience_of(session, deployment)
    strategy = strategy_of(deployment)
    placed = places(candidates(audience), _percents(strategy))
    last = sa.func.coalesce(placed.c.stage, len(strategy.stages) - 1)
    rows = _rows(placed, deployment, last, now)
    adding = insert(deployment_agents).from_select(rows.selected_columns.keys(), rows).cte("added")
    await session.execute(_ROOM)
    found = await session.execute(summarize(placed, SAMPLE_AGENTS).add_cte(adding))
    stages = _stages(_parts(found), strategy)
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


async def follow_members(
    session: AsyncSession,
    deployment: Deployment,
    now: datetime,
    *,
    after: UUID = FIRST,
    limit: int = FOLLOWED_AGENTS,
) -> Followed:
    """Take in whoever is asked for by now, into the stage that its h is in; let go of whoever is
    not any more and has not been told yet.

    Looks at the next `limit` agents beyond `after`: it must not take longer the more there are.
    """
    until = await _find_bound(session, deployment, after, limit)
    within = (after, until or LAST)
    found = candidates(replace(await audience_of(session, deployment), within=within))
    row, stage = deployment_agents.c, deployment_stages.c
    cutoff = (
        sa.select(sa.func.min(stage.stage))
        .where(stage.deployment_id == deployment.id, stage.cutoff >= found.c.h)
        .scalar_subquery()
    )
    here = (row.deployment_id == deployment.id, row.agent_id > after, row.agent_id <= within[1])
    # NOT IN is hashed once, whatever the planner believes of tables that were empty a moment ago;
    # an anti-join of those scans the table again for each row, while it grows.
    known = sa.select(row.agent_id).where(*here, row.state != AgentState.EXCLUDED)
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
            *here,
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
    return Followed(joined=int(joined), gone=int(gone), after=until or FIRST)


async def _find_bound(
    session: AsyncSession, deployment: Deployment, after: UUID, limit: int
) -> UUID | None:
    """Return the id of the agent of these fleets that is `limit` beyond `after`, if there is."""
    query = sa.select(agents.c.id).where(agents.c.fleet.in_(deployment.fleets), agents.c.id > after)
    bound = query.order_by(agents.c.id).offset(limit - 1).limit(1)
    return (await session.execute(bound)).scalar()


def _rows(
    found: sa.CTE, deployment: Deployment, stage: sa.ColumnElement[int], now: datetime
) -> sa.Select[tuple[object, ...]]:
    return sa.select(
        sa.literal(deployment.id, sa.Uuid).label("deployment_id"),
        found.c.agent_id,
        stage.label("stage"),
        found.c.state,
        found.c.reason,
        previous_digest(found).label("previous_digest"),
        sa.case((found.c.state != AgentState.PENDING, sa.literal(now, Time))).label("finished_at"),
        sa.literal(now, Time).label("updated_at"),
    )


def _percents(strategy: Strategy) -> list[int]:
    return [stage.percent for stage in strategy.stages]


def _parts(rows: Iterable[Any]) -> list[_Part]:
    """Return what `summarize` has found, who is excluded at the end."""
    parts = [
        _Part(
            stage=row.stage,
            state=AgentState(row.state),
            reason=row.reason,
            agents=row.agents,
            chosen=row.chosen,
            highest=bytes(row.highest[0]) if row.highest else None,
            first=sorted(zip(row.places, row.ids, strict=True)),
        )
        for row in rows
    ]
    return sorted(parts, key=lambda part: (part.stage is None, part.stage or 0, part.state))


def _groups(parts: Sequence[_Part]) -> list[Group]:
    """Return the parts of all stages together, by state and reason."""
    kinds = sorted({(part.state, part.reason) for part in parts})
    found = []
    for kind in kinds:
        own = [part for part in parts if (part.state, part.reason) == kind]
        found.append(Group(*kind, sum(part.agents for part in own), _sample(own)))
    return found


def _stages(parts: Sequence[_Part], strategy: Strategy) -> list[_Stage]:
    """Return what every stage has; the cut-offs do not see those chosen for their tag.

    Raises: StageTooSmall.
    """
    placed = [part for part in parts if part.stage is not None]
    eligible, strata = (sum(part.agents for part in placed), sum(part.chosen for part in placed))
    percents = _percents(strategy)
    check_stratified(percents[0], eligible, strata, strategy.stratify or "")
    stages, cutoff = [], NOBODY
    for index, (percent, size) in enumerate(
        zip(percents, stage_sizes(percents, eligible), strict=True)
    ):
        own = [part for part in placed if part.stage == index]
        cutoff = max([cutoff, *(part.highest for part in own if part.highest is not None)])
        stages.append(
            _Stage(
                percent=percent,
                agents=size,
                due=sum(part.agents for part in own if part.state is AgentState.PENDING),
                cutoff=EVERYONE if percent == 100 else cutoff,
                sample=_sample(own),
            )
        )
    return stages


def _sample(parts: Sequence[_Part]) -> list[UUID]:
    first = sorted(one for part in parts for one in part.first)
    return [agent_id for _, agent_id in first[:SAMPLE_AGENTS]]
