"""The entries that a report lists, as an export: `tensorguard ledger verify` takes it as it is."""

import base64
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from backports.zstd import ZstdCompressor
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.tree import Node
from tensorguard.ledger.verify import FORMAT, subtrees
from tensorguard.services.evidence.tree_queries import StoredCheckpoint, get_nodes
from tensorguard.store.tables import ledger_entries, ledger_events

_AT_ONCE: Final = 100


async def export_entries(
    session: AsyncSession, checkpoint: StoredCheckpoint, indexes: Iterable[int]
) -> AsyncIterator[bytes]:
    """Yield exactly these entries of one epoch with their proofs, as one zstd stream.

    Memory holds a hundred entries at a time. The session is for this alone, and has no transaction
    while a chunk is taken.

    Raises: LedgerError where a hash is missing, so that nothing can be proven.
    """
    compressor = ZstdCompressor()
    async for lines in _lines(session, checkpoint, sorted(set(indexes))):
        if chunk := compressor.compress(lines):
            await session.commit()  # whoever downloads slowly must not hold a connection
            yield chunk
    await session.commit()
    yield compressor.flush()


async def _lines(
    session: AsyncSession, checkpoint: StoredCheckpoint, indexes: Sequence[int]
) -> AsyncIterator[bytes]:
    size = checkpoint.tree_size
    head = {"format": FORMAT, "checkpoint": checkpoint.note, "start": 0, "end": size}
    yield _line(head | {"filtered": True, "entries": len(indexes)})
    reached = written = 0
    for start in range(0, len(indexes), _AT_ONCE):
        some = indexes[start : start + _AT_ONCE]
        entries = await _read(session, checkpoint.epoch, some)
        gaps, reached_after = [], reached
        for index in some:
            gaps.append((reached_after, index))
            reached_after = index + 1
        hashes = await _cover(session, checkpoint.epoch, gaps)
        lines = []
        for index, gap in zip(some, gaps, strict=True):
            lines.append(_gap(gap, hashes))
            if (entry := entries.get(index)) is None:
                lines.append(_line({"missing": index}))
            else:
                lines.append(_line({"leaf_index": index, "entry": _b64(entry)}))
                written += 1
        reached = reached_after
        yield b"".join(lines)
    yield _gap((reached, size), await _cover(session, checkpoint.epoch, [(reached, size)]))
    yield _line({"end": written})


async def _read(session: AsyncSession, epoch: int, indexes: Sequence[int]) -> dict[int, bytes]:
    query = (
        sa.select(ledger_entries.c.leaf_index, ledger_events.c.entry)
        .join(ledger_events, ledger_events.c.id == ledger_entries.c.event_id)
        .where(ledger_entries.c.epoch == epoch, ledger_entries.c.leaf_index.in_(indexes))
    )
    return {row.leaf_index: row.entry for row in await session.execute(query)}


async def _cover(
    session: AsyncSession, epoch: int, gaps: Iterable[tuple[int, int]]
) -> dict[Node, bytes]:
    nodes = [Node(*node) for gap in gaps for node in subtrees(*gap)]
    return await get_nodes(session, epoch, nodes) if nodes else {}


def _gap(gap: tuple[int, int], hashes: dict[Node, bytes]) -> bytes:
    if gap[0] == gap[1]:
        return b""
    return _line({"gap": gap, "hashes": [_b64(hashes[Node(*node)]) for node in subtrees(*gap)]})


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _line(item: dict[str, Any]) -> bytes:
    return json.dumps(item, separators=(",", ":")).encode() + b"\n"
