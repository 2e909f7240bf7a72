"""Agents: what every use case asks first."""

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.errors import NotFound
from tensorguard.store.agents import find_agent


class AgentNotFound(NotFound):
    """No agent has this id."""

    code = "agent-not-found"
    hint = "List the agents; an id is never used again."


async def get_agent(session: AsyncSession, agent_id: UUID) -> sa.RowMapping:
    """Return everything that is known of one agent.

    Raises: AgentNotFound.
    """
    agent = await find_agent(session, agent_id)
    if agent is None:
        raise AgentNotFound(f"there is no agent {agent_id}")
    return agent
