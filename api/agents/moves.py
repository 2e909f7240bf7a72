"""`/api/v1/agents/{id}/move`: an order to another fleet, and its withdrawal."""

from typing import Annotated
from uuid import UUID

from api.access import Requires
from api.agents.views import AgentDetail, Move, agent_detail
from api.routing import Now, Session, new_router
from tensorguard.services.fleets.agents import get_agent
from tensorguard.services.fleets.moves import cancel_move, order_move
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.agents import list_certificates

router = new_router("/api/v1/agents/{agent_id}/move", "agents")
Admitter = Annotated[Caller, Requires(Permission.AGENTS_ADMIT)]


@router.post("")
async def move_agent(
    caller: Admitter, session: Session, agent_id: UUID, body: Move, now: Now
) -> AgentDetail:
    """Order the agent to another fleet: it is there once it connects with a certificate for it."""
    await order_move(session, agent_id, fleet=body.fleet, by=caller.actor, now=now)
    return await _detail(session, agent_id)


@router.delete("")
async def call_move_off(
    caller: Admitter, session: Session, agent_id: UUID, now: Now
) -> AgentDetail:
    """Call the move off, as long as the agent has no certificate of the other fleet."""
    await cancel_move(session, agent_id, by=caller.actor, now=now)
    return await _detail(session, agent_id)


async def _detail(session: Session, agent_id: UUID) -> AgentDetail:
    row = await get_agent(session, agent_id)
    return agent_detail(row, await list_certificates(session, agent_id))
