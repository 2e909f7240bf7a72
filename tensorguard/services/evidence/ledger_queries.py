"""Reading the ledger's entries, by place and by what they are about."""

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence.filters import EVERYTHING, EntryFilter
from tensorguard.services.evidence.pages import within_bytes
from tensorguard.services.evidence.tree_queries import get_epoch
from tensorguard.store.tables import ledger_entries, ledger_events

MAX_PAGE = 1000
MAX_PAGE_BYTES: Final = 8 * 1024**2
"""Of a page's entries; the last may be above it."""
MOST_COUNTED: Final = 10_000


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry in its place: `entry` are the exact bytes, the rest is read off them."""

    epoch: int
    leaf_index: int
    leaf_hash: bytes
    entry: bytes
    id: UUID
    time: datetime
    type: str
    actor_kind: str
    actor_id: str
    subject_kind: str
    subject_id: str
    fleet: str | None
    outcome: str


class EntryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Entries in their order; the rest starts with `next_start`, or, where the newest come first,
    ends before `next_end`. Both are None where there is no more."""

    items: list[LedgerEntry]
    next_start: int | None
    next_end: int | None = None


async def list_entries(
    session: AsyncSession,
    *,
    epoch: int | None = None,
    start: int = 0,
    end: int | None = None,
    only: EntryFilter = EVERYTHING,
    newest_first: bool = False,
    limit: int = 100,
) -> EntryPage:
    """Return the entries with start ≤ leaf_index < end that the filter lets through.

    They are of the present epoch unless told. A page of large entries has fewer than `limit`.
    """
    limit = max(1, min(limit, MAX_PAGE))
    wanted = await get_epoch(session) if epoch is None else epoch
    columns = [column for column in ledger_events.c if column.name in LedgerEntry.__struct_fields__]
    index = ledger_entries.c.leaf_index
    query = (
        select(
            ledger_entries.c.epoch,
            ledger_entries.c.leaf_index,
            ledger_entries.c.leaf_hash,
            *columns,
        )
        .join(ledger_events, ledger_events.c.id == ledger_entries.c.event_id)
        .where(
            ledger_entries.c.epoch == wanted,
            ledger_entries.c.leaf_index >= start,
            *only.conditions(),
        )
        .order_by(index.desc() if newest_first else index)
        .limit(limit + 1)
    )
    if end is not None:
        query = query.where(ledger_entries.c.leaf_index < end)
    sized = within_bytes(query, most_bytes=MAX_PAGE_BYTES, newest_first=newest_first)
    rows = (await session.execute(sized)).mappings().all()
    names = LedgerEntry.__struct_fields__
    items = [LedgerEntry(**{name: row[name] for name in names}) for row in rows[:limit]]
    if not rows or rows[0]["of_page"] == len(items):
        return EntryPage(items=items, next_start=None)
    if newest_first:
        return EntryPage(items=items, next_start=None, next_end=items[-1].leaf_index)
    return EntryPage(items=items, next_start=items[-1].leaf_index + 1)


async def count_entries(
    session: AsyncSession,
    *,
    epoch: int | None = None,
    start: int = 0,
    end: int | None = None,
    only: EntryFilter = EVERYTHING,
) -> int:
    """Return how many entries `list_entries` would find; MOST_COUNTED + 1 where they are more."""
    wanted = await get_epoch(session) if epoch is None else epoch
    query = (
        select(literal(1))
        .select_from(ledger_entries)
        .join(ledger_events, ledger_events.c.id == ledger_entries.c.event_id)
        .where(
            ledger_entries.c.epoch == wanted,
            ledger_entries.c.leaf_index >= start,
            *only.conditions(),
        )
        .limit(MOST_COUNTED + 1)
    )
    if end is not None:
        query = query.where(ledger_entries.c.leaf_index < end)
    counted = await session.execute(select(func.count()).select_from(query.subquery()))
    return int(counted.scalar_one())
