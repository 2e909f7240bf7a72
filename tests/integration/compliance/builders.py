"""Events of a period, as a report finds them."""

from typing import Any
from uuid import UUID, uuid4

from tensorguard.services.evidence.event import SYSTEM, Actor
from tensorguard.services.evidence.events import (
    AgentDenied,
    AgentEnrolled,
    AgentRenewed,
    AgentReported,
    AgentRevocationConfirmed,
    AgentRevoked,
)
from tests.integration.ledger.builders import now

HUB = Actor("service", "hub")
USER = "0195a1b2-0000-7000-8000-000000000001"


def enrolled(fleet: str, agent: UUID) -> AgentEnrolled:
    return AgentEnrolled(by=SYSTEM, fleet=fleet, agent_id=agent, token_id=uuid4(), serial="ab")


def revoked(fleet: str, agent: UUID, seq: int | None, **more: Any) -> AgentRevoked:
    by = Actor("user", USER)
    return AgentRevoked(by=by, fleet=fleet, agent_id=agent, reason="lost", seq=seq, **more)


def confirmed(fleet: str, agent: UUID, seq: int, **fronts: int) -> AgentRevocationConfirmed:
    return AgentRevocationConfirmed(
        by=HUB, fleet=fleet, agent_id=agent, seq=seq, fronts_ms=fronts, disconnected=1
    )


def denied(fleet: str, agent: UUID, count: int) -> AgentDenied:
    return AgentDenied(
        by=HUB, fleet=fleet, agent_id=agent, operation="publish", reason="topic", count=count
    )


def reported(fleet: str, agent: UUID, what: Any) -> AgentReported:
    return AgentReported(
        by=Actor("agent", str(agent)),
        fleet=fleet,
        agent_id=agent,
        reported=what,
        log_id=uuid4(),
        number=1,
        at=now(),
        data={"count": 99},
    )


def renewed(fleet: str, agent: UUID) -> AgentRenewed:
    return AgentRenewed(by=SYSTEM, fleet=fleet, agent_id=agent, serial="cd")
