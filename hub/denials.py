"""Operations that fronts denied: an entry at the first, then one a minute with the count.

Nobody may flood an immutable log: what one agent does within a minute is one entry, a minute holds
at most so many entries, and what exceeds that is summed up without names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.protocol.messages import FrontDenied
from tensorguard.services import ledger
from tensorguard.services.event import Actor
from tensorguard.services.events import AgentDenied

TOLD_EVERY = timedelta(minutes=1)
MAX_KEYS = 1_000

Key = tuple[UUID | None, str | None, str, str, str]


@dataclass(slots=True)
class _Tally:
    count: int
    since: datetime


class Denials:
    """Sums up denied operations between two entries of the same agent, operation and reason."""

    def __init__(self) -> None:
        self._open: dict[Key, _Tally] = {}

    def take(
        self, denied: Sequence[tuple[str, FrontDenied]], now: datetime
    ) -> list[tuple[Key, int, datetime]]:
        """Count reports; return those to be told at once: the first of their kind this minute."""
        first: list[tuple[Key, int, datetime]] = []
        for front, message in denied:
            key: Key = (
                message.agent_id,
                message.fleet,
                message.operation,
                message.reason,
                front,
            )
            if key not in self._open and len(self._open) >= MAX_KEYS:
                key = (None, None, message.operation, "many", front)
            tally = self._open.get(key)
            if tally is None:
                self._open[key] = _Tally(0, now)
                first.append((key, message.count, now))
            else:
                tally.count += message.count
        return first

    def due(self, now: datetime) -> list[tuple[Key, int, datetime]]:
        """Return and forget the tallies whose minute is over; those still at zero are silent."""
        over = [key for key, tally in self._open.items() if now - tally.since >= TOLD_EVERY]
        tallies = [(key, self._open.pop(key)) for key in over]
        return [(key, tally.count, tally.since) for key, tally in tallies if tally.count]


async def tell_denials(
    session: AsyncSession, told: Sequence[tuple[Key, int, datetime]], now: datetime
) -> None:
    """Write one ledger event for each."""
    events = [
        AgentDenied(
            by=Actor("service", f"front/{front}"),
            fleet=fleet,
            agent_id=agent_id,
            operation=operation,
            reason=reason,
            count=count,
            front=front,
            since=since,
        )
        for (agent_id, fleet, operation, reason, front), count, since in told
    ]
    await ledger.record_many(session, events, now=now)
