"""`/api/v1/deployments`: plan, preview, start, watch, stop."""

from typing import Annotated
from uuid import UUID

from fastapi import Query
from sqlalchemy.ext.asyncio import AsyncSession

from api.access import Requires
from api.deployments.views import (
    DeploymentAbort,
    DeploymentAgentView,
    DeploymentChange,
    DeploymentCreate,
    DeploymentDetail,
    DeploymentPlan,
    DeploymentView,
    FailuresView,
    PreviewView,
    agent_view,
    deployment_detail,
    deployment_view,
    failures_view,
    preview_view,
)
from api.fleets.views import Slug
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Now, Session, new_router
from tensorguard.rollouts.states import AgentState, DeploymentState
from tensorguard.services.deployments import deployments, moving
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.deployments import (
    FAILED,
    Deployment,
    count_failures,
    count_states,
    list_deployment_agents,
    list_stages,
)
from tensorguard.store.deployments import list_deployments as list_deployment_rows

router = new_router("/api/v1/deployments", "deployments")
Reader = Annotated[Caller, Requires(Permission.DEPLOYMENTS_READ)]
Writer = Annotated[Caller, Requires(Permission.DEPLOYMENTS_WRITE)]
_MOST_REASONS = 20


@router.post("", status_code=201)
async def create_deployment(
    caller: Writer, session: Session, body: DeploymentCreate, now: Now
) -> DeploymentDetail:
    """Deploy a release, at once unless `start` is false."""
    made = await deployments.create_deployment(session, body.to_plan(), by=caller.actor, now=now)
    if body.start:
        made = await moving.start_deployment(session, made.id, by=caller.actor, now=now)
    return await _detail(session, made)


@router.post("/preview")
async def preview_deployment(caller: Reader, session: Session, body: DeploymentPlan) -> PreviewView:
    """Tell who would get the release, and who not, and why; changes nothing."""
    return preview_view(await deployments.preview_deployment(session, body.to_plan()))


@router.get("")
async def list_deployments(
    caller: Reader,
    session: Session,
    state: Annotated[list[DeploymentState] | None, Query()] = None,
    fleet: Annotated[Slug | None, Query()] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[DeploymentView]:
    """List deployments, newest first."""
    after = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await list_deployment_rows(
        session, states=state or (), fleet=fleet, after=after, limit=limit + 1
    )
    counts = await count_states(session, [row.id for row in rows[:limit]])
    return page_of(
        rows, limit, view=lambda row: deployment_view(row, counts), key=lambda row: (str(row.id),)
    )


@router.get("/{deployment_id}")
async def get_deployment(caller: Reader, session: Session, deployment_id: UUID) -> DeploymentDetail:
    """Return one deployment, with its stages and counts."""
    return await _detail(session, await deployments.get_deployment(session, deployment_id))


@router.get("/{deployment_id}/preview")
async def preview_draft(caller: Reader, session: Session, deployment_id: UUID) -> PreviewView:
    """Tell what a draft would start with now."""
    draft = await deployments.get_deployment(session, deployment_id)
    return preview_view(await deployments.preview_draft(session, draft))


@router.get("/{deployment_id}/agents")
async def list_agents(
    caller: Reader,
    session: Session,
    deployment_id: UUID,
    state: Annotated[list[AgentState] | None, Query()] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[DeploymentAgentView]:
    """List a deployment's agents: how far each is, and why it is no further."""
    await deployments.get_deployment(session, deployment_id)
    after = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await list_deployment_agents(
        session, deployment_id, states=state or (), after=after, limit=limit + 1
    )
    return page_of(rows, limit, view=agent_view, key=lambda row: (str(row.agent_id),))


@router.get("/{deployment_id}/failures")
async def list_failures(caller: Reader, session: Session, deployment_id: UUID) -> FailuresView:
    """Count why agents do not run the release, all of them."""
    await deployments.get_deployment(session, deployment_id)
    failures = await count_failures(session, deployment_id, limit=_MOST_REASONS)
    counts = (await count_states(session, [deployment_id])).get(deployment_id, {})
    return failures_view(failures, all_agents=sum(counts.get(state, 0) for state in FAILED))


@router.post("/{deployment_id}/start")
async def start_deployment(
    caller: Writer, session: Session, deployment_id: UUID, now: Now
) -> DeploymentDetail:
    """Start a draft."""
    return await _detail(
        session,
        await moving.start_deployment(session, deployment_id, by=caller.actor, now=now),
    )


@router.post("/{deployment_id}/pause")
async def pause_deployment(
    caller: Writer, session: Session, deployment_id: UUID, body: DeploymentChange, now: Now
) -> DeploymentDetail:
    """Let nobody else begin; who has begun goes on."""
    moved = await moving.pause_deployment(
        session, deployment_id, reason=body.reason, by=caller.actor, now=now
    )
    return await _detail(session, moved)


@router.post("/{deployment_id}/resume")
async def resume_deployment(
    caller: Writer, session: Session, deployment_id: UUID, body: DeploymentChange, now: Now
) -> DeploymentDetail:
    """Go on with a paused deployment."""
    moved = await moving.resume_deployment(
        session, deployment_id, reason=body.reason, by=caller.actor, now=now
    )
    return await _detail(session, moved)


@router.post("/{deployment_id}/abort")
async def abort_deployment(
    caller: Writer, session: Session, deployment_id: UUID, body: DeploymentAbort, now: Now
) -> DeploymentDetail:
    """End it for good, and take back what no agent has acted on."""
    moved = await moving.abort_deployment(
        session, deployment_id, reason=body.reason, by=caller.actor, now=now
    )
    return await _detail(session, moved)


async def _detail(session: AsyncSession, deployment: Deployment) -> DeploymentDetail:
    counts = await count_states(session, [deployment.id])
    return deployment_detail(deployment, counts, await list_stages(session, deployment.id))
