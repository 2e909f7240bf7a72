"""Messages that cannot be used: kept with the reason, bounded, and in the ledger by the minute."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.batch import DeadLetter
from hub.tallies import Tallies, Tally
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import MessagePoisoned
from tensorguard.store.tables import dead_letters

KEPT_PER_AGENT = 100
KEPT_FOR = timedelta(days=30)

_PRUNE = sa.text("""
    DELETE FROM dead_letters WHERE id IN (
        SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY agent_id ORDER BY id DESC) AS place
            FROM dead_letters WHERE agent_id = ANY(:agents) OR (agent_id IS NULL AND :nobody)
        ) AS ranked WHERE place > :kept
    )
""")
_FORGET = sa.delete(dead_letters).where(dead_letters.c.received_at < sa.bindparam("before"))


async def store_dead_letters(
    session: AsyncSession, letters: Sequence[DeadLetter], now: datetime
) -> None:
    """Keep the letters, at most 100 an agent."""
    if not letters:
        return
    await session.execute(
        sa.insert(dead_letters),
        [
            {
                "agent_id": letter.agent_id,
                "topic": letter.topic,
                "payload": letter.payload,
                "payload_bytes": letter.payload_bytes,
                "payload_sha256": letter.payload_sha256,
                "code": letter.code,
                "reason": letter.reason,
                "received_at": letter.received_at,
            }
            for letter in letters
        ],
    )
    agents = [letter.agent_id for letter in letters if letter.agent_id is not None]
    nobody = len(agents) < len(letters)
    prune = {"agents": agents, "nobody": nobody, "kept": KEPT_PER_AGENT}
    await session.execute(_PRUNE, prune)


# Agent, fleet, kind of message, code.
PoisonKey = tuple[UUID | None, str | None, str, str]


def poisoned() -> Tallies[PoisonKey]:
    """Return tallies of dead letters; those without room keep the kind."""
    return Tallies(lambda key: (None, None, key[2], "many"))


def poison_counts(letters: Sequence[DeadLetter]) -> list[tuple[PoisonKey, int]]:
    """Return what the dead letters of agents count; nobody's are kept, but nobody is told of."""
    return [
        ((letter.agent_id, letter.fleet, letter.kind, letter.code), 1)
        for letter in letters
        if letter.agent_id is not None
    ]


async def tell_poisoned(
    session: AsyncSession, told: Sequence[tuple[PoisonKey, Tally]], now: datetime
) -> None:
    """Write one ledger event for each that counts something."""
    events = [
        MessagePoisoned(
            by=Actor("service", "hub"),
            fleet=fleet,
            agent_id=agent_id,
            kind=kind,
            reason=code,
            count=tally.count,
        )
        for (agent_id, fleet, kind, code), tally in told
        if tally.count
    ]
    await ledger.record_many(session, events, now=now)


async def forget_dead_letters(session: AsyncSession, now: datetime) -> None:
    """Delete letters older than 30 days."""
    await session.execute(_FORGET, {"before": now - KEPT_FOR})
