"""Deployments: what people ask for. The controller's steps are in rollout.py."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.errors import IllegalMove
from tensorguard.rollouts.selector import parse_selector
from tensorguard.rollouts.stages import EVERYONE, SALT_BYTES, stage_size
from tensorguard.rollouts.states import AgentState, DeploymentState, check_deployment_move
from tensorguard.rollouts.strategy import Strategy, dump_strategy, parse_strategy
from tensorguard.services.deployments.deployability import check_believed, check_deployable
from tensorguard.services.deployments.packages import get_package
from tensorguard.services.deployments.release_errors import DeploymentNotFound, NoEligibleAgents
from tensorguard.services.deployments.releases import get_release
from tensorguard.services.errors import FleetNotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import (
    Actor,
    DeploymentAborted,
    DeploymentCreated,
    DeploymentMoved,
    DeploymentPaused,
    DeploymentResumed,
    DeploymentStarted,
)
from tensorguard.store.candidates import Audience, candidates, count_candidates
from tensorguard.store.deployments import Deployment, find_deployment
from tensorguard.store.ids import new_id
from tensorguard.store.packages import Release
from tensorguard.store.tables import (
    Time,
    deployment_agents,
    deployment_stages,
    deployments,
    fleets,
)
from tensorguard.tgsp import manifest as manifests

SAMPLE_AGENTS = 10
CHANNEL = "tg_deployments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be deployed, to whom, and how."""

    release_id: UUID
    fleets: Sequence[str]
    selector: str = ""
    strategy: Strategy = field(default_factory=Strategy)


@dataclass(frozen=True, slots=True)
class Group:
    """Agents that would start in the same state for the same reason, and a few of them."""

    state: AgentState
    reason: str
    agents: int
    sample: list[UUID]


@dataclass(frozen=True, slots=True)
class Preview:
    """What would start: agents in each stage, and every group of agents."""

    stages: list[int]
    groups: list[Group]


async def create_deployment(
    session: AsyncSession, plan: Plan, *, by: Actor, now: datetime
) -> Deployment:
    """Write down a deployment as a draft: nobody gets anything before `start_deployment`.

    Raises: ReleaseNotFound, PackageWithdrawn, PublisherNotInForce, FleetNotFound, BadSelector,
        BadStrategy.
    """
    release, slugs = await _check_plan(session, plan, now)
    strategy = plan.strategy
    deployment_id = new_id()
    await session.execute(
        sa.insert(deployments).values(
            id=deployment_id,
            release_id=release.id,
            fleets=slugs,
            selector=plan.selector,
            strategy=dump_strategy(strategy),
            state=DeploymentState.DRAFT,
            salt=secrets.token_bytes(SALT_BYTES),
            created_at=now,
            created_by=by.id,
        )
    )
    event = DeploymentCreated(
        by=by,
        fleet=slugs[0] if len(slugs) == 1 else None,
        deployment_id=deployment_id,
        release_id=release.id,
        package_digest=release.package_digest,
        fleets=slugs,
        selector=plan.selector,
        allow_downgrade=strategy.allow_downgrade,
    )
    await ledger.record(session, event, now=now)
    return await get_deployment(session, deployment_id)


async def preview_deployment(session: AsyncSession, plan: Plan, *, now: datetime) -> Preview:
    """Return who would get the release if this started now, and who not, and why.

    Raises: ReleaseNotFound, PackageWithdrawn, PublisherNotInForce, FleetNotFound, BadSelector,
        BadStrategy.
    """
    release, slugs = await _check_plan(session, plan, now)
    audience = await _audience(session, release.package_digest, slugs, plan.selector, bytes(16))
    return await _preview(session, audience, plan.strategy)


async def preview_draft(session: AsyncSession, deployment: Deployment) -> Preview:
    """Return what `preview_deployment` does, by the deployment's own draw of lots."""
    audience = await audience_of(session, deployment)
    return await _preview(session, audience, strategy_of(deployment))


async def _preview(session: AsyncSession, audience: Audience, strategy: Strategy) -> Preview:
    rows = await session.execute(count_candidates(audience, SAMPLE_AGENTS))
    groups = [
        Group(AgentState(state), reason, count, list(ids)) for state, reason, count, ids in rows
    ]
    eligible = sum(group.agents for group in groups if group.state is not AgentState.EXCLUDED)
    sizes = [stage_size(stage.percent, eligible) for stage in strategy.stages]
    stages = [size - before for size, before in zip(sizes, [0, *sizes], strict=False)]
    return Preview(stages, groups)


async def start_deployment(
    session: AsyncSession, deployment_id: UUID, *, by: Actor, now: datetime
) -> Deployment:
    """Settle who is in which stage and let the controller begin.

    Raises: DeploymentNotFound, IllegalMove, PackageWithdrawn, PublisherNotInForce,
        PublisherUnpublished, NoEligibleAgents.
    """
    deployment = await get_deployment(session, deployment_id, lock=True)
    check_deployment_move(deployment.state, DeploymentState.RUNNING)
    if deployment.started_at is not None:
        raise IllegalMove("the deployment has started before", hint="Resume it.")
    await check_believed(session, deployment.package_digest, now)
    await _settle_stages(session, deployment, now)
    event = DeploymentStarted(by=by, deployment_id=deployment.id, stage=0)
    await session.execute(
        sa.update(deployments).where(deployments.c.id == deployment.id).values(started_at=now)
    )
    return await move_deployment(session, deployment, event, DeploymentState.RUNNING, now=now)


async def pause_deployment(
    session: AsyncSession, deployment_id: UUID, *, reason: str, by: Actor, now: datetime
) -> Deployment:
    """Let nobody else begin; who has begun goes on.

    Raises: DeploymentNotFound, IllegalMove.
    """
    deployment = await get_deployment(session, deployment_id, lock=True)
    event = DeploymentPaused(by=by, deployment_id=deployment.id, reason=reason)
    return await move_deployment(session, deployment, event, DeploymentState.PAUSED, now=now)


async def resume_deployment(
    session: AsyncSession, deployment_id: UUID, *, reason: str, by: Actor, now: datetime
) -> Deployment:
    """Go on with a paused deployment.

    Raises: DeploymentNotFound, IllegalMove, PackageWithdrawn, PublisherNotInForce,
        PublisherUnpublished.
    """
    deployment = await get_deployment(session, deployment_id, lock=True)
    check_deployment_move(deployment.state, DeploymentState.RUNNING)
    await check_believed(session, deployment.package_digest, now)
    event = DeploymentResumed(by=by, deployment_id=deployment.id, reason=reason)
    return await move_deployment(session, deployment, event, DeploymentState.RUNNING, now=now)


async def abort_deployment(
    session: AsyncSession, deployment_id: UUID, *, reason: str, by: Actor, now: datetime
) -> Deployment:
    """Stop for good: the controller withdraws what no agent has acted on yet.

    Raises: DeploymentNotFound, IllegalMove.
    """
    deployment = await get_deployment(session, deployment_id, lock=True)
    event = DeploymentAborted(by=by, deployment_id=deployment.id, reason=reason)
    return await move_deployment(session, deployment, event, DeploymentState.ABORTED, now=now)


async def move_deployment(
    session: AsyncSession,
    deployment: Deployment,
    event: DeploymentMoved,
    to: DeploymentState,
    *,
    now: datetime,
    finished: bool = False,
) -> Deployment:
    """Change the state of a deployment that the caller has locked, and write why.

    Raises: IllegalMove.
    """
    check_deployment_move(deployment.state, to)
    await session.execute(
        sa.update(deployments)
        .where(deployments.c.id == deployment.id)
        .values(
            state=to,
            state_reason=event.reason or "",
            revision=deployments.c.revision + 1,
            finished_at=now if finished else deployments.c.finished_at,
        )
    )
    await ledger.record(session, event, now=now)
    await session.execute(sa.select(sa.func.pg_notify(CHANNEL, str(deployment.id))))
    return await get_deployment(session, deployment.id)


async def get_deployment(
    session: AsyncSession, deployment_id: UUID, *, lock: bool = False
) -> Deployment:
    """Return the deployment with this id. Raises: DeploymentNotFound."""
    deployment = await find_deployment(session, deployment_id, lock=lock)
    if deployment is None:
        raise DeploymentNotFound(f"there is no deployment {deployment_id}")
    return deployment


def strategy_of(deployment: Deployment) -> Strategy:
    """Return the deployment's strategy as a type."""
    return parse_strategy(deployment.strategy)


async def audience_of(session: AsyncSession, deployment: Deployment) -> Audience:
    """Return whom the deployment is for, by its own words and by its package's manifest."""
    return await _audience(
        session,
        deployment.package_digest,
        deployment.fleets,
        deployment.selector,
        deployment.salt,
    )


async def _audience(
    session: AsyncSession, digest: bytes, slugs: Sequence[str], selector: str, salt: bytes
) -> Audience:
    package = await get_package(session, digest)
    target = manifests.decode(package.manifest).target
    return Audience(
        salt=salt,
        fleets=tuple(slugs),
        selector=parse_selector(selector),
        target_fleets=target.fleets,
        target_selector=parse_selector(target.selector),
        package_digest=digest,
    )


async def _check_plan(
    session: AsyncSession, plan: Plan, now: datetime
) -> tuple[Release, list[str]]:
    release = await get_release(session, plan.release_id)
    await check_deployable(session, release.package_digest, now)
    parse_selector(plan.selector)
    parse_strategy(dump_strategy(plan.strategy))
    return release, await _check_fleets(session, plan.fleets)


async def _check_fleets(session: AsyncSession, slugs: Sequence[str]) -> list[str]:
    wanted = sorted(set(slugs))
    if not wanted:
        raise FleetNotFound("a deployment names at least one fleet")
    query = sa.select(fleets.c.slug).where(fleets.c.slug.in_(wanted))
    known = set((await session.execute(query)).scalars())
    if missing := [slug for slug in wanted if slug not in known]:
        raise FleetNotFound(f"there is no fleet {missing[0][:80]!r}")
    return wanted


async def _settle_stages(session: AsyncSession, deployment: Deployment, now: datetime) -> None:
    """Fix the cut-offs, and put every agent into its stage."""
    found = candidates(await audience_of(session, deployment))
    eligible = sa.select(found.c.h).where(found.c.state != AgentState.EXCLUDED)
    count_query = sa.select(sa.func.count()).select_from(eligible.subquery())
    count = (await session.execute(count_query)).scalar_one()
    if count == 0:
        raise NoEligibleAgents("no agent of these fleets matches the selector and the package")
    before = 0
    for index, stage in enumerate(strategy_of(deployment).stages):
        size = stage_size(stage.percent, count)
        cutoff = EVERYONE
        if stage.percent < 100:
            nth = eligible.order_by(found.c.h).offset(size - 1).limit(1)
            cutoff = (await session.execute(nth)).scalar_one()
        await session.execute(
            sa.insert(deployment_stages).values(
                deployment_id=deployment.id,
                stage=index,
                percent=stage.percent,
                cutoff=cutoff,
                agents=size - before,
                started_at=now if index == 0 else None,
            )
        )
        before = size
    await add_candidates(session, deployment, now)


async def add_candidates(session: AsyncSession, deployment: Deployment, now: datetime) -> int:
    """Put every agent that is asked for, and not in the deployment yet, into its stage."""
    found = candidates(await audience_of(session, deployment))
    stage = (
        sa.select(sa.func.min(deployment_stages.c.stage))
        .where(
            deployment_stages.c.deployment_id == deployment.id,
            deployment_stages.c.cutoff >= found.c.h,
        )
        .scalar_subquery()
    )
    # NOT IN is hashed once, whatever the planner believes of tables that were empty a moment ago;
    # an anti-join of those scans the table again for each row, while it grows.
    known = sa.select(deployment_agents.c.agent_id).where(
        deployment_agents.c.deployment_id == deployment.id
    )
    rows = sa.select(
        sa.literal(deployment.id, sa.Uuid).label("deployment_id"),
        found.c.agent_id,
        stage.label("stage"),
        found.c.state,
        found.c.reason,
        found.c.previous_digest,
        sa.case((found.c.state != AgentState.PENDING, sa.literal(now, Time))).label("finished_at"),
        sa.literal(now, Time).label("updated_at"),
    ).where(found.c.agent_id.not_in(known))
    added = (
        insert(deployment_agents)
        .from_select(rows.selected_columns.keys(), rows)
        .on_conflict_do_nothing()
        .returning(deployment_agents.c.agent_id)
        .cte("added")
    )
    count = await session.execute(sa.select(sa.func.count()).select_from(added))
    return int(count.scalar_one())
