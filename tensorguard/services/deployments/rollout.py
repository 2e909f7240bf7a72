"""The controller's steps: each one transaction, idempotent, so that any leader can go on."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.decisions import Decision, Move, Standing, decide, find_rolled_back
from tensorguard.rollouts.metrics import Reading
from tensorguard.rollouts.presumption import LOST_AFTER, Watch
from tensorguard.rollouts.states import DeploymentState
from tensorguard.rollouts.tally import add_up
from tensorguard.services.deployments.comparing import read_metrics
from tensorguard.services.deployments.membership import strategy_of
from tensorguard.services.deployments.moving import (
    begin_next_stage,
    begin_rollback,
    end_stage,
    move_deployment,
    note_verdict,
)
from tensorguard.services.deployments.observing import count_back, count_stages
from tensorguard.services.deployments.release_errors import PackageWithdrawn, PublisherNotInForce
from tensorguard.services.deployments.releases import check_deployment
from tensorguard.services.evidence.events import (
    SYSTEM,
    DeploymentCompleted,
    DeploymentPaused,
    DeploymentRolledBack,
)
from tensorguard.store.deployments import Deployment, StageRow, list_stages
from tensorguard.store.tables import deployment_stages

_LOCK: Final = 7290431


async def lead(session: AsyncSession) -> bool:
    """Become the one controller until the transaction ends, unless another is."""
    # Tables grow by orders of magnitude between two steps: a plan that was kept would be a bad one.
    await session.execute(sa.text("SET LOCAL plan_cache_mode = force_custom_plan"))
    query = sa.select(sa.func.pg_try_advisory_xact_lock(_LOCK))
    return bool((await session.execute(query)).scalar())


async def decide_next(
    session: AsyncSession, deployment: Deployment, *, watch: Watch, now: datetime
) -> Decision:
    """Judge a running deployment, which the caller has locked, and do what follows from it."""
    standing = await read_standing(session, deployment, watch=watch, now=now)
    decision = decide(standing, now)
    if decision.move is Move.COMPARE:
        stage = standing.strategy.stages[standing.stage]
        assert stage.gate is not None
        since = standing.held_since or now
        readings = await read_metrics(
            session, deployment, stage.gate.metrics, since=since, until=now
        )
        standing = await read_standing(session, deployment, watch=watch, now=now, readings=readings)
        decision = decide(standing, now)
    await _carry_out(session, deployment, standing, decision, now)
    return decision


async def read_standing(
    session: AsyncSession,
    deployment: Deployment,
    *,
    watch: Watch,
    now: datetime,
    readings: Sequence[Reading] | None = None,
) -> Standing:
    """Count where a deployment stands that has begun."""
    strategy = strategy_of(deployment)
    tallies = await count_stages(session, deployment.id, stages=len(strategy.stages))
    stage = await _stage_row(session, deployment)
    begun_at = stage.started_at or deployment.started_at or now
    return Standing(
        strategy=strategy,
        stage=deployment.stage,
        tallies=tallies,
        held_since=_trusted(stage.held_since, watch),
        waited=now - max(begun_at, watch.heard_since) >= LOST_AFTER,
        trouble=await find_trouble(session, deployment, now),
        readings=readings,
    )


async def finish_rollback(
    session: AsyncSession, deployment: Deployment, *, watch: Watch, now: datetime
) -> bool:
    """End a rollback when everybody who is there is back; tell whether it is."""
    counts, reachable = await count_back(session, deployment.id)
    stage = await _stage_row(session, deployment)
    begun_at = stage.finished_at or deployment.started_at or now
    waited = now - max(begun_at, watch.heard_since) >= LOST_AFTER
    remark = find_rolled_back(counts, reachable=reachable, waited=waited)
    if remark is None:
        return False
    event = DeploymentRolledBack(by=SYSTEM, deployment_id=deployment.id, reason=remark or None)
    await move_deployment(
        session, deployment, event, DeploymentState.ROLLED_BACK, now=now, finished=True
    )
    return True


async def _carry_out(
    session: AsyncSession,
    deployment: Deployment,
    standing: Standing,
    decision: Decision,
    now: datetime,
) -> None:
    report = decision.report
    match decision.move:
        case Move.ADVANCE:
            await begin_next_stage(
                session, deployment, reason=decision.reason, by=SYSTEM, now=now, report=report
            )
        case Move.PAUSE:
            await note_verdict(session, deployment, report)
            event = DeploymentPaused(
                by=SYSTEM,
                deployment_id=deployment.id,
                reason=decision.reason,
                stage=deployment.stage,
            )
            await move_deployment(session, deployment, event, DeploymentState.PAUSED, now=now)
        case Move.ROLL_BACK:
            await end_stage(session, deployment, report, now=now)
            await begin_rollback(session, deployment, reason=decision.reason, by=SYSTEM, now=now)
        case Move.COMPLETE:
            await _complete(session, deployment, standing, decision, now)
        case _:
            since = None if report is None else report.held_since
            await _hold(session, deployment, since)


async def _complete(
    session: AsyncSession,
    deployment: Deployment,
    standing: Standing,
    decision: Decision,
    now: datetime,
) -> None:
    total = add_up(standing.tallies)
    event = DeploymentCompleted(
        by=SYSTEM,
        deployment_id=deployment.id,
        reason=decision.reason or None,
        succeeded=total.good,
        failed=total.bad,
    )
    await end_stage(session, deployment, decision.report, now=now)
    await move_deployment(
        session, deployment, event, DeploymentState.COMPLETED, now=now, finished=True
    )


async def _hold(session: AsyncSession, deployment: Deployment, since: datetime | None) -> None:
    """Note since when the stage's gate holds; written only where that has changed."""
    stage = deployment_stages.c
    await session.execute(
        sa.update(deployment_stages)
        .where(
            stage.deployment_id == deployment.id,
            stage.stage == deployment.stage,
            stage.held_since.is_distinct_from(since),
        )
        .values(held_since=since)
    )


async def _stage_row(session: AsyncSession, deployment: Deployment) -> StageRow:
    rows = await list_stages(session, deployment.id)
    return next(row for row in rows if row.stage == deployment.stage)


async def find_trouble(session: AsyncSession, deployment: Deployment, now: datetime) -> str | None:
    """Return why the package must go to nobody else, if so."""
    try:
        await check_deployment(session, deployment, now)
    except (PackageWithdrawn, PublisherNotInForce) as error:
        return error.message
    return None


def _trusted(held_since: datetime | None, watch: Watch) -> datetime | None:
    """Return since when it is known to hold: not from before the clock jumped."""
    if held_since is None or held_since < watch.clock_since:
        return None
    return held_since
