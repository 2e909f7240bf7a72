"""Exports of the ledger that anybody can verify with tensorguard/ledger/verify.py, and its form.

Read from the database as it stands, damaged or not: it is for the verifier to say which. Where the
database contradicts itself, the hashes that it holds are added, so that the damage can be named.
"""

import base64
import json
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from backports.zstd import ZstdCompressor
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.tree import Node
from tensorguard.ledger.verify import FORMAT, LARGE, Map, hash_leaf, subtrees
from tensorguard.services.evidence.filters import EVERYTHING, EntryFilter
from tensorguard.services.evidence.pages import within_bytes
from tensorguard.services.evidence.tree_queries import (
    StoredCheckpoint,
    find_nodes,
    get_consistency_proof,
    get_epoch,
    get_latest_checkpoint,
)
from tensorguard.store.tables import ledger_entries, ledger_events

BATCH: Final = 2_000
MOST_BYTES: Final = 4 * 1024**2
"""Of a batch's entries; the last may be above it."""
MOST_LOST: Final = 10_000
_LOST: Final = sa.text("""
    SELECT place FROM generate_series(CAST(:start AS bigint), CAST(:end AS bigint) - 1) AS place
    LEFT JOIN ledger_entries AS entry ON entry.epoch = :epoch AND entry.leaf_index = place
    LEFT JOIN ledger_events AS event ON event.id = entry.event_id
    WHERE event.id IS NULL ORDER BY place LIMIT :limit
""")


class ExportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries: start ≤ leaf_index < end, of those that the filter lets through."""

    epoch: int | None = None
    start: int = 0
    end: int | None = None
    only: EntryFilter = EVERYTHING
    since: int | None = None
    """Prove that the tree of this size is a prefix, too."""

    @property
    def is_filtered(self) -> bool:
        """Whether places are left out between start and end."""
        return not self.only.is_everything


async def export_compressed(session: AsyncSession, request: ExportRequest) -> AsyncIterator[bytes]:
    """Yield an export as one zstd stream, by a session that is for this alone.

    It has no transaction while a chunk is taken, however long that takes.
    Raises: NoCheckpoint, NoSuchProof, LedgerError.
    """
    compressor = ZstdCompressor()
    async for lines in export_lines(session, request):
        if chunk := compressor.compress(lines):
            await session.commit()  # whoever downloads slowly must not hold a connection
            yield chunk
    await session.commit()
    yield compressor.flush()


async def export_lines(session: AsyncSession, request: ExportRequest) -> AsyncIterator[bytes]:
    """Yield an export, many lines at a time. Raises: NoCheckpoint, NoSuchProof, LedgerError."""
    epoch = await get_epoch(session) if request.epoch is None else request.epoch
    checkpoint = await get_latest_checkpoint(session, epoch)
    size = checkpoint.tree_size
    end = size if request.end is None else min(request.end, size)
    start = min(request.start, end)
    most = 0 if request.is_filtered else end - start
    yield _line(
        {
            "format": FORMAT,
            "checkpoint": checkpoint.note,
            "start": start,
            "end": end,
            "filtered": request.is_filtered,
            "entries": most,
        }
    )
    if request.since is not None:
        proof = await get_consistency_proof(session, epoch, request.since, size)
        yield _line({"consistency": request.since, "hashes": [_b64(item) for item in proof]})
    lost = await _find_lost(session, epoch, start, end) if request.is_filtered else []
    writer = _Writer(session, epoch, lost)
    if start:
        yield await writer.gap(start)
    after = start - 1
    while rows := await _read(session, request, epoch, after, end):
        lines = []
        for row in rows:
            if row.leaf_index > writer.tree.size:
                if request.is_filtered:
                    lines.append(await writer.gap(row.leaf_index))
                else:
                    lines.append(writer.missing(row.leaf_index))
            lines.append(writer.entry(row))
        yield b"".join(lines)
        after = rows[-1].leaf_index
    if not request.is_filtered and writer.tree.size < end:
        yield writer.missing(end)
    if writer.tree.size < size:
        yield await writer.gap(size)
    if writer.tree.root() != checkpoint.root_hash or writer.is_damaged:
        yield await _evidence(writer, checkpoint)
    yield _line({"end": writer.entries})


class _Writer:
    """Makes lines, and keeps of the tree that they give what does not grow with them."""

    def __init__(self, session: AsyncSession, epoch: int, lost: Sequence[int]) -> None:
        self.session = session
        self.epoch = epoch
        self.tree = Map()
        self.entries = 0
        self.is_damaged = False
        self._lost = lost

    def entry(self, row: Any) -> bytes:
        index = row.leaf_index
        if row.entry is None:  # its bytes are gone, its place is not
            return self.missing(index + 1) + _stored(Node(0, index), row.leaf_hash)
        leaf = hash_leaf(row.entry)
        self.tree.append(leaf)
        self.entries += 1
        line = b'{"leaf_index":%d,"entry":"%s"}\n' % (index, base64.b64encode(row.entry))
        if leaf == row.leaf_hash:
            return line
        self.is_damaged = True
        return line + _stored(Node(0, index), row.leaf_hash)

    def missing(self, until: int) -> bytes:
        """Say which entries are not there, up to `until`."""
        lines = []
        while self.tree.size < until:
            lines.append(_line({"missing": self.tree.size}))
            self.tree.append(bytes(32))
        self.is_damaged = True
        return b"".join(lines)

    async def gap(self, until: int) -> bytes:
        """Leave out entries up to `until`: the hashes of what covers them, and what is lost."""
        lines = []
        for index in self._lost[bisect_left(self._lost, self.tree.size) :]:
            if index >= until:
                break
            if index > self.tree.size:
                lines.append(await self._cover(index))
            lines.append(self.missing(index + 1))
        if until > self.tree.size:
            lines.append(await self._cover(until))
        return b"".join(lines)

    async def _cover(self, until: int) -> bytes:
        start = self.tree.size
        nodes = [Node(*node) for node in subtrees(start, until)]
        found = await find_nodes(self.session, self.epoch, nodes)
        if len(found) < len(nodes):
            return b"".join([await self._cover_one(node, found.get(node)) for node in nodes])
        for node in nodes:
            self.tree.append(found[node], node.level)
        hashes = [_b64(found[node]) for node in nodes]
        return _line({"gap": [start, until], "hashes": hashes})

    async def _cover_one(self, node: Node, value: bytes | None) -> bytes:
        """Leave out one subtree; where its hash is lost, by those under it."""
        start, end = node.offset << node.level, (node.offset + 1) << node.level
        if value is not None:
            self.tree.append(value, node.level)
            return _line({"gap": [start, end], "hashes": [_b64(value)]})
        if node.level == 0:
            return self.missing(end)
        below = [Node(node.level - 1, 2 * node.offset + side) for side in (0, 1)]
        found = await find_nodes(self.session, self.epoch, below)
        return b"".join([await self._cover_one(one, found.get(one)) for one in below])


async def _find_lost(session: AsyncSession, epoch: int, start: int, end: int) -> list[int]:
    """The first places without an entry, or without its bytes, which no filter would find."""
    values = {"epoch": epoch, "start": start, "end": end, "limit": MOST_LOST}
    return list((await session.execute(_LOST, values)).scalars())


async def _read(
    session: AsyncSession, request: ExportRequest, epoch: int, after: int, end: int
) -> Sequence[Any]:
    """The next of them: BATCH at most, and none beyond the one that reaches MOST_BYTES."""
    entry, event = ledger_entries.c, ledger_events.c
    page = (
        sa.select(entry.leaf_index, entry.leaf_hash, event.entry)
        .outerjoin(ledger_events, event.id == entry.event_id)
        .where(
            entry.epoch == epoch,
            entry.leaf_index > after,
            entry.leaf_index < end,
            *request.only.conditions(),
        )
        .order_by(entry.leaf_index)
        .limit(BATCH)
    )
    rows: Sequence[Any] = (await session.execute(within_bytes(page, most_bytes=MOST_BYTES))).all()
    return rows


async def _evidence(writer: _Writer, checkpoint: StoredCheckpoint) -> bytes:
    """The stored hashes on the way to the first damage; the verifier believes them if they fit."""
    lines = []
    start, end = 0, checkpoint.tree_size
    while end - start > 1 << LARGE:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        nodes = [Node(*node) for node in (*subtrees(start, middle), *subtrees(middle, end))]
        found = await find_nodes(writer.session, writer.epoch, nodes)
        lines += [_stored(node, value) for node, value in found.items()]
        left = found.get(nodes[0])
        if left is not None and left == writer.tree.find(start, middle):
            start = middle
        else:
            end = middle
    nodes = [
        Node(level, offset)
        for level in range(LARGE + 1)
        for offset in range(start >> level, (end >> level) + 2)
    ]
    found = await find_nodes(writer.session, writer.epoch, nodes)
    lines += [_stored(node, value) for node, value in found.items()]
    return b"".join(lines)


def _stored(node: Node, value: bytes) -> bytes:
    return _line({"stored": [node.level, node.offset, _b64(value)]})


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _line(item: dict[str, Any]) -> bytes:
    return json.dumps(item, separators=(",", ":")).encode() + b"\n"
