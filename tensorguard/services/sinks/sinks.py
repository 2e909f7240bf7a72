"""Reading sinks: their rows, how far they have come, and what waits for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.sinks.sink_errors import SinkNotFound
from tensorguard.store.tables import ledger_entries, ledger_events, sink_dead_letters, sinks

MAX_SINKS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """A sink as its row says; `epoch` and `next_index` are the entry that it gets next."""

    id: UUID
    name: str
    kind: str
    config: dict[str, Any]
    private_fields: bool
    state: str
    revision: int
    secret_version: int
    previous_until: datetime | None
    epoch: int
    next_index: int
    sent: int
    last_sent_at: datetime | None
    answer_status: int | None
    answer_text: str | None
    answered_at: datetime | None
    failures: int
    trouble_code: str | None
    trouble_reason: str | None
    trouble_since: datetime | None
    retry_at: datetime | None
    spells: int
    spell_told: bool
    failing_told_at: datetime | None
    dead_untold: int
    dead_told_at: datetime | None
    gap_untold: int
    gap_first: int | None
    gap_last: int | None
    gap_told_at: datetime | None
    created_at: datetime
    created_by: str
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits for a sink: how many entries, since when, and how many it would not take."""

    waiting: int
    oldest_at: datetime | None
    dead_letters: int


async def list_sinks(session: AsyncSession) -> list[Sink]:
    """Return every sink by name; they are few."""
    rows = (await session.execute(sa.select(sinks).order_by(sinks.c.name))).mappings()
    return [Sink(**row) for row in rows]


async def find_sink(session: AsyncSession, sink_id: UUID, *, lock: bool = False) -> Sink | None:
    """Return a sink if there is one; locked until the transaction ends if `lock`."""
    query = sa.select(sinks).where(sinks.c.id == sink_id)
    if lock:
        query = query.with_for_update()
    row = (await session.execute(query)).mappings().one_or_none()
    return None if row is None else Sink(**row)


async def get_sink(session: AsyncSession, sink_id: UUID, *, lock: bool = False) -> Sink:
    """Return a sink. Raises: SinkNotFound."""
    found = await find_sink(session, sink_id, lock=lock)
    if found is None:
        raise SinkNotFound(f"there is no sink {sink_id}")
    return found


_SIZES = sa.text("""
    SELECT epochs.number, coalesce((
        SELECT max(leaf_index) + 1 FROM ledger_entries AS entry WHERE entry.epoch = epochs.number
    ), 0) AS size
    FROM platform, generate_series(1, platform.epoch) AS epochs (number)
""")


async def list_epoch_sizes(session: AsyncSession) -> dict[int, int]:
    """Return how many entries each epoch has, by one look at the end of the key for each."""
    return {epoch: size for epoch, size in await session.execute(_SIZES)}


def count_waiting(sink: Sink, sizes: dict[int, int]) -> int:
    """Return how many entries a sink has yet to get."""
    later = sum(size for epoch, size in sizes.items() if epoch > sink.epoch)
    return later + max(0, sizes.get(sink.epoch, 0) - sink.next_index)


async def list_backlogs(session: AsyncSession, found: Sequence[Sink]) -> dict[UUID, Backlog]:
    """Return what waits for these sinks."""
    sizes = await list_epoch_sizes(session)
    letters = sa.select(sink_dead_letters.c.sink_id, sa.func.count()).group_by(
        sink_dead_letters.c.sink_id
    )
    dead = {sink_id: count for sink_id, count in await session.execute(letters)}
    return {
        sink.id: Backlog(
            waiting=count_waiting(sink, sizes),
            oldest_at=await _find_time(session, sink),
            dead_letters=dead.get(sink.id, 0),
        )
        for sink in found
    }


async def _find_time(session: AsyncSession, sink: Sink) -> datetime | None:
    """The time of the next entry that the sink gets."""
    entry = ledger_entries.c
    place = sa.or_(
        entry.epoch > sink.epoch,
        sa.and_(entry.epoch == sink.epoch, entry.leaf_index >= sink.next_index),
    )
    query = (
        sa.select(ledger_events.c.time)
        .join(ledger_entries, entry.event_id == ledger_events.c.id)
        .where(place)
        .order_by(entry.epoch, entry.leaf_index)
        .limit(1)
    )
    return (await session.execute(query)).scalar_one_or_none()
