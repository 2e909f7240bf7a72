"""`/api/v1/agents`: an operator's decisions about devices that wait, and the release of keys."""

from typing import Annotated
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.access import Requires
from api.agents.views import (
    AgentDetail,
    Approve,
    Decide,
    DecisionsView,
    Reject,
    Release,
    agent_detail,
)
from api.routing import Now, Session, new_router
from tensorguard.services.enrollment import admission
from tensorguard.services.fleets.agents import get_agent
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.agents import list_certificates

router = new_router("/api/v1/agents", "agents")
Admitter = Annotated[Caller, Requires(Permission.AGENTS_ADMIT)]


@router.post("/decide")
async def decide(caller: Admitter, session: Session, body: Decide, now: Now) -> DecisionsView:
    """Approve or reject several agents; those that cannot be are named, and stop no others."""
    made = await admission.decide_agents(
        session, body.ids, reason=body.reason, by=caller.actor, now=now
    )
    return DecisionsView.model_validate(made)


@router.post("/{agent_id}/approve")
async def approve(
    caller: Admitter, session: Session, agent_id: UUID, body: Approve, now: Now
) -> AgentDetail:
    """Let a pending agent have its certificate, which it gets when it asks the next time."""
    await admission.approve_agent(session, agent_id, by=caller.actor, now=now)
    return await _detail(session, agent_id)


@router.post("/{agent_id}/reject")
async def reject(
    caller: Admitter, session: Session, agent_id: UUID, body: Reject, now: Now
) -> AgentDetail:
    """Turn a pending agent away."""
    await admission.reject_agent(session, agent_id, reason=body.reason, by=caller.actor, now=now)
    return await _detail(session, agent_id)


@router.post("/{agent_id}/release")
async def release(
    caller: Admitter, session: Session, agent_id: UUID, body: Release, now: Now
) -> AgentDetail:
    """Let the device of a revoked or rejected agent enrol anew, as another agent."""
    await admission.release_agent(session, agent_id, reason=body.reason, by=caller.actor, now=now)
    return await _detail(session, agent_id)


async def _detail(session: AsyncSession, agent_id: UUID) -> AgentDetail:
    row = await get_agent(session, agent_id)
    return agent_detail(row, await list_certificates(session, agent_id))
