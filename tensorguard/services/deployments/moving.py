"""Moves of a deployment: by people and by the controller, each with who and why in the ledger."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.errors import IllegalMove
from tensorguard.rollouts.gates import GateReport
from tensorguard.rollouts.states import RETRYABLE, DeploymentState, check_deployment_move
from tensorguard.services.deployments.deployability import check_believed
from tensorguard.services.deployments.deployments import get_deployment
from tensorguard.services.deployments.membership import settle_stages, strategy_of
from tensorguard.services.deployments.release_errors import NothingToRetry
from tensorguard.services.deployments.releases import check_deployment
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import (
    Actor,
    DeploymentAborted,
    DeploymentAdvanced,
    DeploymentMoved,
    DeploymentPaused,
    DeploymentResumed,
    DeploymentRetried,
    DeploymentRollingBack,
    DeploymentScheduled,
    DeploymentStarted,
)
from tensorguard.services.hints import Hint, HintKind, tell
from tensorguard.store.deployments import Deployment
from tensorguard.store.tables import deployment_stages, deployments

CHANNEL: Final = "tg_deployments"
_BEFORE_START: Final = (
    DeploymentState.DRAFT,
    DeploymentState.AWAITING_APPROVAL,
    DeploymentState.SCHEDULED,
)


async def start_deployment(
    session: AsyncSession,
    deployment_id: UUID,
    *,
    by: Actor,
    now: datetime,
    approved_by: Actor | None = None,
) -> Deployment:
    """Settle who is in which stage and let the controller begin; or wait for `start_at`.

    Raises: DeploymentNotFound, IllegalMove, PackageWithdrawn, PublisherNotInForce,
        PublisherUnpublished, NoEligibleAgents, StageTooSmall.
    """
    deployment = await get_deployment(session, deployment_id, lock=True)
    if deployment.state not in _BEFORE_START:
        check_deployment_move(deployment.state, DeploymentState.RUNNING)
        raise IllegalMove("the deployment has started before", hint="Resume it.")
    await _check_may_go(session, deployment, now)
    approver = None if approved_by is None else approved_by.id
    if deployment.start_at is not None and deployment.start_at > now:
        scheduled = DeploymentScheduled(
            by=by,
            deployment_id=deployment.id,
            start_at=deployment.start_at,
            approved_by=approver,
        )
        return await move_deployment(
            session, deployment, scheduled, DeploymentState.SCHEDULED, now=now
        )
    await settle_stages(session, deployment, now)
    await session.execute(
        sa.update(deployments).where(deployments.c.id == deployment.id).values(started_at=now)
    )
    event = DeploymentStarted(by=by, deployment_id=deployment.id, stage=0, approved_by=approver)
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
    if deployment.state is not DeploymentState.PAUSED:
        raise IllegalMove(
            f"a deployment that is {deployment.state} cannot be resumed",
            hint="Only a paused one goes on.",
        )
    await _check_may_go(session, deployment, now)
    event = DeploymentResumed(by=by, deployment_id=deployment.id, reason=reason)
    return await move_deployment(session, deployment, event, DeploymentState.RUNNING, now=now)


async def advance_deployment(
    session: AsyncSession, deployment_id: UUID, *, reason: str, by: Actor, now: datetime
) -> Deployment:
    """Begin the next stage now, whatever the gate says.

    Raises: DeploymentNotFound, IllegalMove.
    """
    deployment = await get_deployment(session, deployment_id, lock=True)
    if deployment.state not in (DeploymentState.RUNNING, DeploymentState.PAUSED):
        raise IllegalMove(
            f"a deployment that is {deployment.state} cannot advance",
            hint="Only a running or paused one does.",
        )
    return await begin_next_stage(session, deployment, reason=reason, by=by, now=now)


async def abort_deployment(
    session: AsyncSession, deployment_id: UUID, *, reason: str, by: Actor, now: datetime
) -> Deployment:
    """Stop for good: the controller withdraws what no agent has acted on yet.

    Raises: DeploymentNotFound, IllegalMove.
    """
    deployment = await get_deployment(session, deployment_id, lock=True)
    event = DeploymentAborted(by=by, deployment_id=deployment.id, reason=reason)
    return await move_deployment(session, deployment, event, DeploymentState.ABORTED, now=now)


async def roll_back_deployment(
    session: AsyncSession, deployment_id: UUID, *, reason: str, by: Actor, now: datetime
) -> Deployment:
    """Give every agent that was told of it its previous release back; who waits, waits no more.

    Raises: DeploymentNotFound, IllegalMove.
    """
    deployment = await get_deployment(session, deployment_id, lock=True)
    return await begin_rollback(session, deployment, reason=reason, by=by, now=now)


async def retry_failed(
    session: AsyncSession, deployment_id: UUID, *, reason: str, by: Actor, now: datetime
) -> int:
    """Send the release again to whoever it has not reached; return how many that are.

    Who refused it by policy, and who has had as many retries as the strategy allows, stay.
    Raises: DeploymentNotFound, IllegalMove, NothingToRetry.
    """
    deployment = await get_deployment(session, deployment_id, lock=True)
    if deployment.state not in (DeploymentState.RUNNING, DeploymentState.PAUSED):
        raise IllegalMove(
            f"agents of a deployment that is {deployment.state} cannot be tried again",
            hint="Start a new deployment of the release.",
        )
    retries = strategy_of(deployment).timeouts.retries
    values = {"id": deployment.id, "states": list(RETRYABLE), "retries": retries, "now": now}
    agents = int((await session.execute(_RETRY, values)).scalar_one())
    if not agents:
        raise NothingToRetry(f"no agent has failed that has had fewer than {retries} retries")
    event = DeploymentRetried(
        by=by, deployment_id=deployment.id, reason=reason, stage=deployment.stage, agents=agents
    )
    await ledger.record(session, event, now=now)
    await session.execute(
        sa.update(deployment_stages)
        .where(deployment_stages.c.deployment_id == deployment.id)
        .values(held_since=None)
    )
    await session.execute(
        sa.update(deployments)
        .where(deployments.c.id == deployment.id)
        .values(revision=deployments.c.revision + 1)
    )
    await tell_of(session, deployment, now)
    return agents


async def begin_next_stage(
    session: AsyncSession,
    deployment: Deployment,
    *,
    reason: str,
    by: Actor,
    now: datetime,
    report: GateReport | None = None,
) -> Deployment:
    """Begin the next stage of a deployment that the caller has locked. Raises: IllegalMove."""
    stages = strategy_of(deployment).stages
    if deployment.stage + 1 >= len(stages):
        raise IllegalMove("this is the last stage", hint="It completes by itself.")
    number = deployment.stage + 1
    await end_stage(session, deployment, report, now=now)
    stage = deployment_stages.c
    await session.execute(
        sa.update(deployment_stages)
        .where(stage.deployment_id == deployment.id, stage.stage == number)
        .values(started_at=now, held_since=None)
    )
    await session.execute(
        sa.update(deployments).where(deployments.c.id == deployment.id).values(stage=number)
    )
    event = DeploymentAdvanced(
        by=by, deployment_id=deployment.id, reason=reason or None, stage=number
    )
    return await _write_move(
        session, deployment, event, DeploymentState.RUNNING, now=now, reason=""
    )


async def begin_rollback(
    session: AsyncSession,
    deployment: Deployment,
    *,
    reason: str,
    by: Actor,
    now: datetime,
) -> Deployment:
    """Begin the way back of a deployment that the caller has locked. Raises: IllegalMove."""
    check_deployment_move(deployment.state, DeploymentState.ROLLING_BACK)
    await session.execute(_TOUCHED, {"id": deployment.id, "now": now})
    await session.execute(
        sa.update(deployments).where(deployments.c.id == deployment.id).values(finished_at=None)
    )
    event = DeploymentRollingBack(
        by=by, deployment_id=deployment.id, reason=reason, stage=deployment.stage
    )
    return await move_deployment(session, deployment, event, DeploymentState.ROLLING_BACK, now=now)


async def end_stage(
    session: AsyncSession, deployment: Deployment, report: GateReport | None, *, now: datetime
) -> None:
    """Note that the present stage is over, and what its gate said."""
    stage = deployment_stages.c
    await session.execute(
        sa.update(deployment_stages)
        .where(stage.deployment_id == deployment.id, stage.stage == deployment.stage)
        .values(finished_at=now, **_evidence(report))
    )


async def note_verdict(
    session: AsyncSession, deployment: Deployment, report: GateReport | None
) -> None:
    """Keep what the present stage's gate said when it stopped the deployment."""
    if report is None:
        return
    stage = deployment_stages.c
    await session.execute(
        sa.update(deployment_stages)
        .where(stage.deployment_id == deployment.id, stage.stage == deployment.stage)
        .values(held_since=None, **_evidence(report))
    )


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
    reason = event.reason or ""
    return await _write_move(
        session, deployment, event, to, now=now, finished=finished, reason=reason
    )


async def note_obstacle(
    session: AsyncSession, deployment: Deployment, reason: str, now: datetime
) -> bool:
    """Say why a scheduled deployment has not started at its time; tell whether that is news."""
    if deployment.state_reason == reason:
        return False
    await session.execute(
        sa.update(deployments)
        .where(deployments.c.id == deployment.id)
        .values(state_reason=reason, revision=deployments.c.revision + 1)
    )
    await tell_of(session, deployment, now)
    return True


async def tell_of(session: AsyncSession, deployment: Deployment, now: datetime) -> None:
    """Hint that the deployment has changed to whoever watches it."""
    fleet = deployment.fleets[0] if len(deployment.fleets) == 1 else None
    await tell(session, [Hint(HintKind.DEPLOYMENT, str(deployment.id), fleet)], now=now)


async def _check_may_go(session: AsyncSession, deployment: Deployment, now: datetime) -> None:
    await check_deployment(session, deployment, now)
    await check_believed(session, deployment.package_digest, now)


async def _write_move(
    session: AsyncSession,
    deployment: Deployment,
    event: DeploymentMoved,
    to: DeploymentState,
    *,
    now: datetime,
    reason: str,
    finished: bool = False,
) -> Deployment:
    await session.execute(
        sa.update(deployments)
        .where(deployments.c.id == deployment.id)
        .values(
            state=to,
            state_reason=reason,
            revision=deployments.c.revision + 1,
            finished_at=now if finished else deployments.c.finished_at,
        )
    )
    await ledger.record(session, event, now=now)
    await session.execute(sa.select(sa.func.pg_notify(CHANNEL, str(deployment.id))))
    return await get_deployment(session, deployment.id)


def _evidence(report: GateReport | None) -> Mapping[str, Any]:
    return {} if report is None else {"gate": msgspec.to_builtins(report)}


_RETRY = sa.text("""
    WITH tried AS (
        UPDATE deployment_agents
        SET state = 'pending', reason = '', percent = NULL, attempts = attempts + 1,
            assigned_at = NULL, notified_at = NULL, started_at = NULL, finished_at = NULL,
            updated_at = :now
        WHERE deployment_id = :id AND state = ANY(CAST(:states AS text[]))
          AND attempts < :retries
        RETURNING agent_id
    )
    SELECT count(*) FROM tried
""")
# Whoever was told of it goes back; whoever was not is left alone.
_TOUCHED = sa.text("""
    UPDATE deployment_agents
    SET rollback = CASE WHEN assigned_at IS NOT NULL OR attempts > 0 THEN 'waiting' END,
        state = CASE WHEN assigned_at IS NULL AND attempts = 0 AND state = 'pending'
                     THEN 'superseded' ELSE state END,
        reason = CASE WHEN assigned_at IS NULL AND attempts = 0 AND state = 'pending'
                      THEN 'rolled back before its turn' ELSE reason END,
        assigned_at = NULL, updated_at = :now
    WHERE deployment_id = :id
      AND (assigned_at IS NOT NULL OR attempts > 0 OR state = 'pending')
""")
