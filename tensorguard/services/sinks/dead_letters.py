"""Entries that a destination would not take: looked at, sent once more, or given up."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import SinkDeadLetterDiscarded, SinkDeadLettersReplayed
from tensorguard.services.sinks.sink_errors import DeadLetterNotFound
from tensorguard.services.sinks.sinks import get_sink
from tensorguard.store.tables import sink_dead_letters

MAX_KEPT: Final = 10_000
"""Of one sink; when there are more, it is not the entries that are at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkDeadLetter:
    """An entry that was refused, and how; `replay_requested_at`: it will be sent once more."""

    id: UUID
    sink_id: UUID
    epoch: int
    leaf_index: int
    event_type: str
    code: str
    reason: str
    status: int | None
    answer: str
    attempts: int
    dead_at: datetime
    replay_requested_at: datetime | None


async def list_dead_letters(
    session: AsyncSession, sink_id: UUID, *, after: UUID | None, limit: int
) -> list[SinkDeadLetter]:
    """Return `limit` + 1 dead letters of a sink, the oldest first. Raises: SinkNotFound."""
    await get_sink(session, sink_id)
    query = sa.select(sink_dead_letters).where(sink_dead_letters.c.sink_id == sink_id)
    if after is not None:
        query = query.where(sink_dead_letters.c.id > after)
    query = query.order_by(sink_dead_letters.c.id).limit(limit + 1)
    return [SinkDeadLetter(**row) for row in (await session.execute(query)).mappings()]


async def replay_dead_letters(
    session: AsyncSession, sink_id: UUID, *, by: Actor, now: datetime
) -> int:
    """Have every dead letter sent once more; return how many. Raises: SinkNotFound."""
    await get_sink(session, sink_id, lock=True)
    letter = sink_dead_letters.c
    asked = await session.execute(
        sa.update(sink_dead_letters)
        .where(letter.sink_id == sink_id, letter.replay_requested_at.is_(None))
        .values(replay_requested_at=now)
    )
    count = int(asked.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it
    if count:
        event = SinkDeadLettersReplayed(by=by, sink_id=sink_id, count=count)
        await ledger.record(session, event, now=now)
    return count


async def replay_dead_letter(
    session: AsyncSession, sink_id: UUID, letter_id: UUID, *, by: Actor, now: datetime
) -> SinkDeadLetter:
    """Have one dead letter sent once more. Raises: DeadLetterNotFound."""
    letter = await _get(session, sink_id, letter_id)
    if letter.replay_requested_at is not None:
        return letter
    await session.execute(
        sa.update(sink_dead_letters)
        .where(sink_dead_letters.c.id == letter_id)
        .values(replay_requested_at=now)
    )
    event = SinkDeadLettersReplayed(
        by=by, sink_id=sink_id, count=1, epoch=letter.epoch, leaf_index=letter.leaf_index
    )
    await ledger.record(session, event, now=now)
    return await _get(session, sink_id, letter_id)


async def discard_dead_letter(
    session: AsyncSession, sink_id: UUID, letter_id: UUID, *, by: Actor, now: datetime
) -> None:
    """Give an entry up for this sink; it stays in the ledger. Raises: DeadLetterNotFound."""
    letter = await _get(session, sink_id, letter_id)
    await session.execute(sa.delete(sink_dead_letters).where(sink_dead_letters.c.id == letter_id))
    event = SinkDeadLetterDiscarded(
        by=by,
        sink_id=sink_id,
        epoch=letter.epoch,
        leaf_index=letter.leaf_index,
        code=letter.code,
    )
    await ledger.record(session, event, now=now)


async def _get(session: AsyncSession, sink_id: UUID, letter_id: UUID) -> SinkDeadLetter:
    letter = sink_dead_letters.c
    query = sa.select(sink_dead_letters).where(letter.sink_id == sink_id, letter.id == letter_id)
    row = (await session.execute(query.with_for_update())).mappings().one_or_none()
    if row is None:
        raise DeadLetterNotFound(f"the sink has no dead letter {letter_id}")
    return SinkDeadLetter(**row)
