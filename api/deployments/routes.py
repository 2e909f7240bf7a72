"""`/api/v1/deployments`: plan, preview, watch; moves are beside."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from sqlalchemy.ext.asyncio import AsyncSession

from api.access import Requires
from api.deployments.views import (
    DeploymentAgentView,
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
from api.routing import Context, Now, Session, new_router
from tensorguard.rollouts.states import AgentState, DeploymentState, RollbackState
from tensorguard.rollouts.strategy import MAX_STAGES, Strategy, dump_strategy
from tensorguard.services.deployments import deployments
from tensorguard.services.deployments.approving import begin_deployment
from tensorguard.services.deployments.draws import new_draw
from tensorguard.services.deployments.membership import Preview
from tensorguard.services.deployments.observing import count_stages
from tensorguard.services.deployments.outlook import look
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.agents import list_names
from tensorguard.store.deployments import (
    FAILED,
    Deployment,
    count_failures,
    count_rollbacks,
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
    caller: Writer, context: Context, session: Session, body: DeploymentCreate, now: Now
) -> DeploymentDetail:
    """Deploy a release, at once unless `start` is false or `start_at` later.

    Where a fleet demands a second person it waits as `awaiting_approval` until one has agreed.
    """
    plan = body.to_plan(context.keyring.url_key)
    made = await deployments.create_deployment(session, plan, by=caller.actor, now=now)
    if body.start:
        made = await begin_deployment(session, made.id, by=caller, now=now)
    return await detail(session, made, now)


@router.post("/preview")
async def preview_deployment(
    caller: Reader, context: Context, session: Session, body: DeploymentPlan, now: Now
) -> PreviewView:
    """Tell who would get the release in which stage, and who not, and why; changes nothing.

    A deployment that is created with the `draw` of this answer starts with just these stages.
    """
    key = context.keyring.url_key
    draw = body.draw or new_draw(key)
    plan = body.model_copy(update={"draw": draw}).to_plan(key)
    found = await deployments.preview_deployment(session, plan, now=now)
    return preview_view(found, draw=draw, names=await _names(session, found))


@router.get("/default-strategy")
async def get_default_strategy(caller: Reader) -> dict[str, Any]:
    """Return the strategy that a deployment has which names none."""
    return dump_strategy(Strategy())


@router.get("")
async def list_deployments(
    caller: Reader,
    session: Session,
    state: Annotated[list[DeploymentState] | None, Query()] = None,
    fleet: Annotated[Slug | None, Query()] = None,
    release: Annotated[UUID | None, Query()] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[DeploymentView]:
    """List deployments, newest first."""
    after = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await list_deployment_rows(
        session, states=state or (), fleet=fleet, release=release, after=after, limit=limit + 1
    )
    counts = await count_states(session, [row.id for row in rows[:limit]])
    return page_of(
        rows, limit, view=lambda row: deployment_view(row, counts), key=lambda row: (str(row.id),)
    )


@router.get("/{deployment_id}")
async def get_deployment(
    caller: Reader, session: Session, deployment_id: UUID, now: Now
) -> DeploymentDetail:
    """Return one deployment: stages, counts, its gate in numbers, and what it waits for."""
    return await detail(session, await deployments.get_deployment(session, deployment_id), now)


@router.get("/{deployment_id}/preview")
async def preview_draft(caller: Reader, session: Session, deployment_id: UUID) -> PreviewView:
    """Tell what a draft would start with now."""
    draft = await deployments.get_deployment(session, deployment_id)
    found = await deployments.preview_draft(session, draft)
    return preview_view(found, names=await _names(session, found))


@router.get("/{deployment_id}/agents")
async def list_agents(
    caller: Reader,
    session: Session,
    deployment_id: UUID,
    state: Annotated[list[AgentState] | None, Query()] = None,
    stage: Annotated[int | None, Query(ge=0, lt=MAX_STAGES)] = None,
    reason: Annotated[str | None, Query(max_length=4000, description="Exactly this.")] = None,
    rollback: Annotated[list[RollbackState] | None, Query()] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[DeploymentAgentView]:
    """List a deployment's agents: how far each is, and why it is no further."""
    await deployments.get_deployment(session, deployment_id)
    after = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await list_deployment_agents(
        session,
        deployment_id,
        states=state or (),
        stage=stage,
        reason=reason,
        rollbacks=rollback or (),
        after=after,
        limit=limit + 1,
    )
    return page_of(rows, limit, view=agent_view, key=lambda row: (str(row.agent_id),))


@router.get("/{deployment_id}/failures")
async def list_failures(caller: Reader, session: Session, deployment_id: UUID) -> FailuresView:
    """Count why agents do not run the release, all of them."""
    await deployments.get_deployment(session, deployment_id)
    failures = await count_failures(session, deployment_id, limit=_MOST_REASONS)
    counts = (await count_states(session, [deployment_id])).get(deployment_id, {})
    return failures_view(failures, all_agents=sum(counts.get(state, 0) for state in FAILED))


async def _names(session: AsyncSession, preview: Preview) -> dict[UUID, str]:
    samples = [
        *(group.sample for group in preview.groups),
        *(stage.sample for stage in preview.planned),
    ]
    return await list_names(session, {id_ for sample in samples for id_ in sample})


async def detail(session: AsyncSession, deployment: Deployment, now: datetime) -> DeploymentDetail:
    """Return everything that the api tells of a deployment."""
    counts = await count_states(session, [deployment.id])
    back = await count_rollbacks(session, [deployment.id])
    stages = await list_stages(session, deployment.id)
    tallies = await count_stages(session, deployment.id, stages=len(stages))
    outlook = await look(session, deployment, now=now)
    return deployment_detail(
        deployment, counts, stages, tallies, back.get(deployment.id, {}), outlook
    )
