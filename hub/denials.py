"""Operations that fronts denied, in the ledger by the minute."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from hub.tallies import Tallies, Tally
from tensorguard.protocol.messages import FrontDenied
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import AgentDenied

# Agent, fleet, operation, reason, front.
DenialKey = tuple[UUID | None, str | None, str, str, str]


def denials() -> Tallies[DenialKey]:
    """Return tallies of denied operations; those without room keep operation and front."""
    return Tallies(lambda key: (None, None, key[2], "many", key[4]))


def denial_counts(denied: Sequence[tuple[str, FrontDenied]]) -> list[tuple[DenialKey, int]]:
    """Return what the fronts' reports count."""
    return [
        ((one.agent_id, one.fleet, one.operation, one.reason, front), one.count)
        for front, one in denied
    ]


async def tell_denials(
    session: AsyncSession, told: Sequence[tuple[DenialKey, Tally]], now: datetime
) -> None:
    """Write one ledger event for each that counts something."""
    events = [
        AgentDenied(
            by=Actor("service", f"front/{front}"),
            fleet=fleet,
            agent_id=agent_id,
            operation=operation,
            reason=reason,
            count=tally.count,
            front=front,
            since=tally.since,
        )
        for (agent_id, fleet, operation, reason, front), tally in told
        if tally.count
    ]
    await ledger.record_many(session, events, now=now)
