"""What a sink gets next: sequenced entries that a checkpoint covers, in their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence.private_fields import read_private
from tensorguard.services.evidence.tree_queries import (
    find_latest_checkpoint,
    get_epoch,
    get_size,
)
from tensorguard.services.sinks.sinks import Sink
from tensorguard.siem.ocsf import Placed
from tensorguard.vault.provider import KeyProvider

_MARK: Final = b'"private":'
# As many as fit; the first fits always.
_READ = sa.text("""
    SELECT leaf_index, leaf_hash, event_id, entry, time, type FROM (
        SELECT placed.*, event.entry, event.time, event.type,
               sum(coalesce(octet_length(event.entry), 0)) OVER (ORDER BY leaf_index) AS bytes,
               row_number() OVER (ORDER BY leaf_index) AS place
        FROM (
            SELECT leaf_index, leaf_hash, event_id FROM ledger_entries
            WHERE epoch = :epoch AND leaf_index >= :start AND leaf_index < :end
            ORDER BY leaf_index LIMIT :limit
        ) AS placed
        LEFT JOIN ledger_events AS event ON event.id = placed.event_id
    ) AS page
    WHERE bytes <= :most_bytes OR place = 1
    ORDER BY leaf_index
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Entries for a sink, of one epoch, under a checkpoint of that epoch.

    `end` is the place after the last of them. With none, the cursor goes on to `epoch` and `end`:
    to the next epoch, or past places that the database has lost. `missing` are such places.
    """

    epoch: int
    entries: Sequence[Placed]
    checkpoint: str
    end: int
    missing: Sequence[int] = ()

    def moves(self, sink: Sink) -> bool:
        """Whether there is anything to do."""
        return bool(self.entries) or (self.epoch, self.end) != (sink.epoch, sink.next_index)


async def read_waiting(
    session: AsyncSession,
    kek: KeyProvider,
    sink: Sink,
    *,
    max_items: int,
    max_bytes: int,
    now: datetime,
) -> Waiting:
    """Return the next entries of a sink, private fields in clear if it may have them.

    In the present epoch only what a checkpoint covers; of an epoch that is over also what no
    checkpoint has come to cover. Raises: VaultError, BadPrivate.
    """
    checkpoint = await find_latest_checkpoint(session, sink.epoch)
    present = await get_epoch(session)
    if sink.epoch < present:
        end = await get_size(session, sink.epoch)
    else:
        end = 0 if checkpoint is None else checkpoint.tree_size
    note = "" if checkpoint is None else checkpoint.note
    values = {
        "epoch": sink.epoch,
        "start": sink.next_index,
        "end": end,
        "limit": max_items,
        "most_bytes": max_bytes,
    }
    rows = (await session.execute(_READ, values)).all()
    if not rows:
        if sink.epoch < present and sink.next_index >= end:
            return Waiting(epoch=sink.epoch + 1, entries=[], checkpoint="", end=0)
        lost = range(sink.next_index, max(end, sink.next_index))
        return Waiting(
            epoch=sink.epoch,
            entries=[],
            checkpoint=note,
            end=sink.next_index + len(lost),
            missing=lost,
        )
    entries = await _placed(session, kek, sink, sink.epoch, rows, note, now)
    last = entries[-1].leaf_index
    missing: Sequence[int] = ()
    if last - sink.next_index + 1 != len(entries):
        there = {entry.leaf_index for entry in entries}
        missing = [index for index in range(sink.next_index, last) if index not in there]
    return Waiting(
        epoch=sink.epoch, entries=entries, checkpoint=note, end=last + 1, missing=missing
    )


async def read_one(
    session: AsyncSession,
    kek: KeyProvider,
    sink: Sink,
    *,
    epoch: int,
    leaf_index: int,
    now: datetime,
) -> Waiting:
    """Return one entry for a sink. Raises: VaultError, BadPrivate."""
    place = {"epoch": epoch, "start": leaf_index, "end": leaf_index + 1}
    values = {**place, "limit": 1, "most_bytes": 0}
    rows = (await session.execute(_READ, values)).all()
    checkpoint = await find_latest_checkpoint(session, epoch)
    note = "" if checkpoint is None else checkpoint.note
    entries = await _placed(session, kek, sink, epoch, rows, note, now)
    return Waiting(epoch=epoch, entries=entries, checkpoint=note, end=leaf_index + 1)


async def _placed(
    session: AsyncSession,
    kek: KeyProvider,
    sink: Sink,
    epoch: int,
    rows: Sequence[Any],
    note: str,
    now: datetime,
) -> list[Placed]:
    privates = await _open_private(session, kek, rows) if sink.private_fields else {}
    return [
        Placed(
            epoch=epoch,
            leaf_index=row.leaf_index,
            leaf_hash=bytes(row.leaf_hash),
            entry=b"" if row.entry is None else bytes(row.entry),
            time=row.time or now,
            type=row.type or "ledger.damaged",
            checkpoint=note,
            private=privates.get(row.event_id),
        )
        for row in rows
    ]


async def _open_private(
    session: AsyncSession, kek: KeyProvider, rows: Sequence[Any]
) -> dict[Any, dict[str, object]]:
    ids = [row.event_id for row in rows if row.entry is not None and _MARK in bytes(row.entry)]
    if not ids:
        return {}
    opened = await read_private(session, kek, ids)
    return {one.id: one.fields for one in opened if one.fields is not None}
