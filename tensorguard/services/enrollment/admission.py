"""Admission: an operator decides about devices that wait, and releases the keys of lost agents."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.enrollment.enrollment_rows import lock_agents
from tensorguard.services.errors import Conflict, Invalid, ServiceError
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import (
    Actor,
    AgentApproved,
    AgentRejected,
    AgentReleased,
    Event,
)
from tensorguard.services.fleets.agents import AgentNotFound
from tensorguard.store.tables import agents

MOST_AT_ONCE: Final = 500
_Row = sa.Row[Any]


class AgentNotPending(Conflict):
    """Somebody has decided about the agent already."""

    code = "agent-not-pending"
    hint = "Read the agent: its status and the ledger say who decided what."


class AgentNotReleasable(Conflict):
    """Only the keys of a revoked or rejected agent can be released."""

    code = "agent-not-releasable"
    hint = "Revoke the agent first: its certificate would stay good otherwise."


@dataclass(frozen=True, slots=True)
class Undecided:
    """An agent about which nothing was decided, and why not."""

    id: UUID
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Decisions:
    """What became of several agents: those decided, in the order in which they were asked for."""

    decided: list[UUID]
    failed: list[Undecided]


async def approve_agent(session: AsyncSession, agent_id: UUID, *, by: Actor, now: datetime) -> None:
    """Let a pending agent have its certificate, which it gets when it asks again.

    That its token was revoked meanwhile changes nothing: whoever approves has seen the device.
    Raises: AgentNotFound, AgentNotPending.
    """
    await _decide_one(session, agent_id, None, by=by, now=now)


async def reject_agent(
    session: AsyncSession, agent_id: UUID, *, reason: str, by: Actor, now: datetime
) -> None:
    """Turn a pending agent away; its keys stay refused until it is released.

    The use of its token is not given back. Raises: AgentNotFound, AgentNotPending.
    """
    await _decide_one(session, agent_id, reason, by=by, now=now)


async def decide_agents(
    session: AsyncSession, ids: Sequence[UUID], *, reason: str | None, by: Actor, now: datetime
) -> Decisions:
    """Approve agents, or with a `reason` reject them, as far as they are pending.

    Raises: Invalid when they are none or more than 500.
    """
    wanted = list(dict.fromkeys(ids))
    if not 1 <= len(wanted) <= MOST_AT_ONCE:
        raise Invalid(f"1 to {MOST_AT_ONCE} agents are decided about at a time")
    found = await lock_agents(session, wanted)
    failed = [
        Undecided(agent_id, error.code, error.message)
        for agent_id in wanted
        if (error := _obstacle(agent_id, found.get(agent_id))) is not None
    ]
    left_out = {one.id for one in failed}
    decided = [agent_id for agent_id in wanted if agent_id not in left_out]
    if decided:
        await _write(session, [found[agent_id] for agent_id in decided], reason, by, now)
    return Decisions(decided, failed)


async def release_agent(
    session: AsyncSession, agent_id: UUID, *, reason: str, by: Actor, now: datetime
) -> None:
    """Let the device of a revoked or rejected agent enrol anew, as another agent.

    This agent stays what it is, and its id refused, for good; once more changes nothing.
    Raises: AgentNotFound, AgentNotReleasable.
    """
    agent = (await lock_agents(session, [agent_id])).get(agent_id)
    if agent is None:
        raise AgentNotFound(f"there is no agent {agent_id}")
    if agent.status not in ("revoked", "rejected"):
        raise AgentNotReleasable(f"agent {agent_id} is {agent.status}")
    if agent.released_at is not None:
        return
    await session.execute(
        sa.update(agents)
        .where(agents.c.id == agent_id)
        .values(released_at=now, revision=agents.c.revision + 1)
    )
    event = AgentReleased(by=by, fleet=agent.fleet, agent_id=agent_id, reason=reason)
    await ledger.record(session, event, now=now)


async def _decide_one(
    session: AsyncSession, agent_id: UUID, reason: str | None, *, by: Actor, now: datetime
) -> None:
    agent = (await lock_agents(session, [agent_id])).get(agent_id)
    if (error := _obstacle(agent_id, agent)) is not None:
        raise error
    assert agent is not None
    await _write(session, [agent], reason, by, now)


def _obstacle(agent_id: UUID, agent: _Row | None) -> ServiceError | None:
    if agent is None:
        return AgentNotFound(f"there is no agent {agent_id}")
    if agent.status != "pending":
        return AgentNotPending(f"agent {agent_id} is {agent.status}")
    return None


async def _write(
    session: AsyncSession,
    decided: Sequence[_Row],
    reason: str | None,
    by: Actor,
    now: datetime,
) -> None:
    """Set the status of agents that are locked and pending."""
    await session.execute(
        sa.update(agents)
        .where(agents.c.id.in_([agent.id for agent in decided]))
        .values(
            status="active" if reason is None else "rejected",
            status_reason=reason,
            revision=agents.c.revision + 1,
        )
    )
    events: list[Event] = [
        AgentApproved(by=by, fleet=agent.fleet, agent_id=agent.id)
        if reason is None
        else AgentRejected(by=by, fleet=agent.fleet, agent_id=agent.id, reason=reason)
        for agent in decided
    ]
    await ledger.record_many(session, events, now=now)
