"""Reading the ledger: entries, tree nodes, checkpoints and the keys that verify them."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.checkpoint import VerifierKey
from tensorguard.ledger.errors import LedgerError
from tensorguard.ledger.tree import Frontier, Node, Span, complete_nodes
from tensorguard.store.tables import (
    ledger_checkpoints,
    ledger_entries,
    ledger_events,
    ledger_hashes,
    signing_keys,
)

MAX_PAGE = 1000


class NoCheckpoint(LedgerError):
    """Nothing has been signed yet."""

    code = "no-checkpoint"
    hint = "The hub signs the first checkpoint within two seconds of the first event."


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry in its place: `entry` are the exact bytes, the rest is read off them."""

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


class StoredCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint as it was signed."""

    tree_size: int
    root_hash: bytes
    note: str
    signed_at: datetime


async def list_entries(
    session: AsyncSession,
    *,
    start: int = 0,
    end: int | None = None,
    type_prefixes: Sequence[str] = (),
    fleet: str | None = None,
    subject_id: str | None = None,
    newest_first: bool = False,
    limit: int = 100,
) -> EntryPage:
    """Return the entries with start ≤ leaf_index < end that match every filter given.

    `type_prefixes` are whole types, or the dotted beginnings of some: `agent.reported`.
    """
    limit = max(1, min(limit, MAX_PAGE))
    columns = [column for column in ledger_events.c if column.name in LedgerEntry.__struct_fields__]
    index = ledger_entries.c.leaf_index
    query = (
        select(ledger_entries.c.leaf_index, ledger_entries.c.leaf_hash, *columns)
        .join(ledger_events, ledger_events.c.id == ledger_entries.c.event_id)
        .where(ledger_entries.c.leaf_index >= start)
        .order_by(index.desc() if newest_first else index)
        .limit(limit + 1)
    )
    if end is not None:
        query = query.where(ledger_entries.c.leaf_index < end)
    if type_prefixes:
        kind = ledger_events.c.type
        query = query.where(
            or_(
                kind.in_(type_prefixes),
                *(kind.startswith(f"{prefix}.", autoescape=True) for prefix in type_prefixes),
            )
        )
    if fleet is not None:
        query = query.where(ledger_events.c.fleet == fleet)
    if subject_id is not None:
        query = query.where(ledger_events.c.subject_id == subject_id)
    rows = (await session.execute(query)).mappings().all()
    items = [LedgerEntry(**row) for row in rows[:limit]]
    if len(rows) <= limit:
        return EntryPage(items=items, next_start=None)
    if newest_first:
        return EntryPage(items=items, next_start=None, next_end=items[-1].leaf_index)
    return EntryPage(items=items, next_start=items[-1].leaf_index + 1)


async def get_size(session: AsyncSession) -> int:
    """Return how many entries the tree has."""
    last = (await session.execute(select(func.max(ledger_entries.c.leaf_index)))).scalar()
    return 0 if last is None else last + 1


async def get_nodes(session: AsyncSession, nodes: Sequence[Node]) -> dict[Node, bytes]:
    """Return the stored hashes of complete subtrees, leaves among them.

    Raises:
        LedgerError: one of them is not stored, so the tree is damaged or smaller.
    """
    found: dict[Node, bytes] = {}
    leaves = [node.offset for node in nodes if node.level == 0]
    interior = [(node.level, node.offset) for node in nodes if node.level > 0]
    if leaves:
        leaf = ledger_entries.c
        query = select(leaf.leaf_index, leaf.leaf_hash).where(leaf.leaf_index.in_(leaves))
        for leaf_index, leaf_hash in await session.execute(query):
            found[Node(0, leaf_index)] = leaf_hash
    if interior:
        node = ledger_hashes.c
        place = tuple_(node.level, node.index)
        stored = select(node.level, node.index, node.hash).where(place.in_(interior))
        for level, index, value in await session.execute(stored):
            found[Node(level, index)] = value
    if missing := set(nodes) - set(found):
        raise LedgerError(f"the ledger lacks the hash of {min(missing)}")
    return found


async def get_frontier(session: AsyncSession, size: int) -> Frontier:
    """Return the right edge that the tree had at `size`.

    Raises:
        LedgerError: the tree is smaller, or damaged.
    """
    nodes = complete_nodes(Span(0, size))
    hashes = await get_nodes(session, nodes)
    return Frontier(size, [hashes[node] for node in nodes])


async def find_latest_checkpoint(session: AsyncSession) -> StoredCheckpoint | None:
    """Return the checkpoint of the largest tree, or None if nothing has been signed yet."""
    query = select(ledger_checkpoints).order_by(ledger_checkpoints.c.tree_size.desc()).limit(1)
    row = (await session.execute(query)).mappings().one_or_none()
    return None if row is None else StoredCheckpoint(**row)


async def get_latest_checkpoint(session: AsyncSession) -> StoredCheckpoint:
    """Return the checkpoint of the largest tree.

    Raises:
        NoCheckpoint: nothing has been signed yet.
    """
    checkpoint = await find_latest_checkpoint(session)
    if checkpoint is None:
        raise NoCheckpoint("the ledger has no checkpoint yet")
    return checkpoint


async def list_verifier_keys(session: AsyncSession, origin: str) -> list[VerifierKey]:
    """Return the keys that sign checkpoints of `origin`, the newest first."""
    key = signing_keys.c
    query = (
        select(key.public)
        .where(key.purpose == "ledger", key.state == "signing")
        .order_by(key.not_before.desc())
    )
    publics = (await session.execute(query)).scalars()
    return [VerifierKey(origin, Ed25519PublicKey.from_public_bytes(item)) for item in publics]
