"""Operations that fronts denied: an entry at the first, then one a minute with the count.

Nobody may flood an immutable log: what one agent does within a minute is one entry, a minute holds
at most so many entries, and what exceeds that is summed up without names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True)
class Tally:
    """Denied operations of one kind: how many that are not told yet, and since when."""

    count: int
    since: datetime


Told = Sequence[tuple[Key, Tally]]
Tallies = Mapping[Key, Tally]


class Denials:
    """Sums up denied operations between two entries of the same agent, operation and reason.

    Nothing changes before `settle`: a transaction that fails must not count, nor forget.
    """

    def __init__(self) -> None:
        self._open: dict[Key, Tally] = {}

    def take(
        self, denied: Sequence[tuple[str, FrontDenied]], now: datetime
    ) -> tuple[Told, Tallies]:
        """Count reports; return those to be told at once, the first of their kind this minute.

        With them come the tallies to `settle` after the commit.
        """
        first: dict[Key, Tally] = {}
        changed: dict[Key, Tally] = {}
        for front, message in denied:
            key = self._key(front, message, changed)
            if key in first:
                first[key] = replace(first[key], count=first[key].count + message.count)
            elif (known := changed.get(key) or self._open.get(key)) is None:
                first[key] = Tally(message.count, now)
                changed[key] = Tally(0, now)
            else:
                changed[key] = replace(known, count=known.count + message.count)
        return list(first.items()), changed

    def _key(self, front: str, message: FrontDenied, changed: Tallies) -> Key:
        key: Key = (message.agent_id, message.fleet, message.operation, message.reason, front)
        if key in self._open or key in changed or len(self._open) + len(changed) < MAX_KEYS:
            return key
        return (None, None, message.operation, "many", front)

    def settle(self, changed: Tallies) -> None:
        """Take over the tallies of a batch that is committed."""
        self._open.update(changed)

    def due(self, now: datetime) -> Told:
        """Return the tallies whose minute is over, to `forget` once they are told."""
        return [
            (key, tally) for key, tally in self._open.items() if now - tally.since >= TOLD_EVERY
        ]

    def forget(self, told: Told) -> None:
        """Start anew for what is told, but keep what was counted in the meantime."""
        for key, tally in told:
            left = self._open[key].count - tally.count
            if left:
                self._open[key] = Tally(left, tally.since + TOLD_EVERY)
            else:
                del self._open[key]


async def tell_denials(session: AsyncSession, told: Told, now: datetime) -> None:
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
