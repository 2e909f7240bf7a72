"""`/api/v1/deployments/{id}/…`: the moves that people make, each with a reason."""

from typing import Annotated
from uuid import UUID

from api.access import Requires
from api.deployments.routes import detail
from api.deployments.views import (
    DeploymentAbort,
    DeploymentChange,
    DeploymentDetail,
    RetriedView,
)
from api.routing import Now, Session, new_router
from tensorguard.services.deployments import moving
from tensorguard.services.deployments.approving import begin_deployment
from tensorguard.services.people.access import Caller, Permission

router = new_router("/api/v1/deployments/{deployment_id}", "deployments")
Writer = Annotated[Caller, Requires(Permission.DEPLOYMENTS_WRITE)]


@router.post("/start")
async def start_deployment(
    caller: Writer, session: Session, deployment_id: UUID, now: Now
) -> DeploymentDetail:
    """Start a draft; where a fleet demands a second person, ask for one."""
    moved = await begin_deployment(session, deployment_id, by=caller, now=now)
    return await detail(session, moved, now)


@router.post("/pause")
async def pause_deployment(
    caller: Writer, session: Session, deployment_id: UUID, body: DeploymentChange, now: Now
) -> DeploymentDetail:
    """Let nobody else begin; who has begun goes on."""
    moved = await moving.pause_deployment(
        session, deployment_id, reason=body.reason, by=caller.actor, now=now
    )
    return await detail(session, moved, now)


@router.post("/resume")
async def resume_deployment(
    caller: Writer, session: Session, deployment_id: UUID, body: DeploymentChange, now: Now
) -> DeploymentDetail:
    """Go on with a paused deployment."""
    moved = await moving.resume_deployment(
        session, deployment_id, reason=body.reason, by=caller.actor, now=now
    )
    return await detail(session, moved, now)


@router.post("/advance")
async def advance_deployment(
    caller: Writer, session: Session, deployment_id: UUID, body: DeploymentAbort, now: Now
) -> DeploymentDetail:
    """Begin the next stage now, whatever the gate says."""
    moved = await moving.advance_deployment(
        session, deployment_id, reason=body.reason, by=caller.actor, now=now
    )
    return await detail(session, moved, now)


@router.post("/abort")
async def abort_deployment(
    caller: Writer, session: Session, deployment_id: UUID, body: DeploymentAbort, now: Now
) -> DeploymentDetail:
    """End it for good, and take back what no agent has acted on."""
    moved = await moving.abort_deployment(
        session, deployment_id, reason=body.reason, by=caller.actor, now=now
    )
    return await detail(session, moved, now)


@router.post("/rollback")
async def roll_back_deployment(
    caller: Writer, session: Session, deployment_id: UUID, body: DeploymentAbort, now: Now
) -> DeploymentDetail:
    """Give every agent that was told of it back what it ran before."""
    moved = await moving.roll_back_deployment(
        session, deployment_id, reason=body.reason, by=caller.actor, now=now
    )
    return await detail(session, moved, now)


@router.post("/retry-failed")
async def retry_failed(
    caller: Writer, session: Session, deployment_id: UUID, body: DeploymentChange, now: Now
) -> RetriedView:
    """Send the release again to whoever it has not reached; policy refusals are final."""
    agents = await moving.retry_failed(
        session, deployment_id, reason=body.reason, by=caller.actor, now=now
    )
    return RetriedView(agents=agents)
