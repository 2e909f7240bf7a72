"""Reading the stored tree of one epoch: its size, its hashes, proofs, and its checkpoints."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.checkpoint import VerifierKey
from tensorguard.ledger.errors import LedgerError
from tensorguard.ledger.tree import (
    Frontier,
    Node,
    Span,
    complete_nodes,
    consistency_spans,
    inclusion_spans,
    prove_consistency,
    prove_inclusion,
)
from tensorguard.store.tables import (
    ledger_checkpoints,
    ledger_entries,
    platform,
    signing_keys,
)

# Each node by its key: the planner, who cannot know how few they are, might scan a whole level.
_FIND_NODES = text("""
    SELECT wanted.level, wanted.index, found.hash
    FROM unnest(CAST(:levels AS smallint[]), CAST(:offsets AS bigint[])) AS wanted (level, index)
    CROSS JOIN LATERAL (
        SELECT hash FROM ledger_hashes AS node
        WHERE node.epoch = :epoch AND node.level = wanted.level AND node.index = wanted.index
        OFFSET 0
    ) AS found
    UNION ALL
    SELECT 0, leaf_index, leaf_hash FROM ledger_entries
    WHERE epoch = :epoch AND leaf_index = ANY(CAST(:leaves AS bigint[]))
""")


class NoCheckpoint(LedgerError):
    """Nothing has been signed yet."""

    code = "no-checkpoint"
    hint = "The hub signs the first checkpoint within two seconds of the first event."


class NoSuchProof(LedgerError):
    """The proof that was asked for is of an entry or a tree size that there is not."""

    code = "no-such-proof"
    hint = "Sizes are those of the newest checkpoint or smaller; an index is below the size."


class StoredCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint as it was signed."""

    epoch: int
    tree_size: int
    root_hash: bytes
    note: str
    signed_at: datetime


class InclusionProof(msgspec.Struct, frozen=True, kw_only=True):
    """That one leaf stands in the tree of a size (RFC 9162 §2.1.3)."""

    leaf_index: int
    tree_size: int
    root_hash: bytes
    audit_path: list[bytes]


async def get_epoch(session: AsyncSession) -> int:
    """Return the epoch that the ledger is in."""
    return int((await session.execute(select(platform.c.epoch))).scalar_one())


async def get_size(session: AsyncSession, epoch: int) -> int:
    """Return how many entries the tree has."""
    query = select(func.max(ledger_entries.c.leaf_index)).where(ledger_entries.c.epoch == epoch)
    last = (await session.execute(query)).scalar()
    return 0 if last is None else last + 1


async def get_nodes(session: AsyncSession, epoch: int, nodes: Sequence[Node]) -> dict[Node, bytes]:
    """Return the stored hashes of complete subtrees, leaves among them.

    Raises:
        LedgerError: one of them is not stored, so the tree is damaged or smaller.
    """
    found = await find_nodes(session, epoch, nodes)
    if missing := set(nodes) - set(found):
        raise LedgerError(f"the ledger lacks the hash of {min(missing)}")
    return found


async def find_nodes(session: AsyncSession, epoch: int, nodes: Sequence[Node]) -> dict[Node, bytes]:
    """Return those of the hashes that are stored, in one round trip."""
    interior = [node for node in nodes if node.level > 0]
    rows = await session.execute(
        _FIND_NODES,
        {
            "epoch": epoch,
            "leaves": [node.offset for node in nodes if node.level == 0],
            "levels": [node.level for node in interior],
            "offsets": [node.offset for node in interior],
        },
    )
    return {Node(level, offset): value for level, offset, value in rows}


async def get_frontier(session: AsyncSession, epoch: int, size: int) -> Frontier:
    """Return the right edge that the tree had at `size`.

    Raises:
        LedgerError: the tree is smaller, or damaged.
    """
    nodes = complete_nodes(Span(0, size))
    hashes = await get_nodes(session, epoch, nodes)
    return Frontier(size, [hashes[node] for node in nodes])


async def get_inclusion_proof(
    session: AsyncSession, epoch: int, index: int, size: int
) -> InclusionProof:
    """Prove that leaf `index` stands in the tree of `size`, by O(log size) stored hashes.

    Raises:
        NoSuchProof: the signed tree has no such size, or no such leaf at it.
        LedgerError: the stored tree is damaged.
    """
    await _check_signed(session, epoch, size)
    if not 0 <= index < size:
        raise NoSuchProof(f"leaf {index} is not in a tree of {size} leaves")
    spans = inclusion_spans(index, size)
    edge = complete_nodes(Span(0, size))
    needed = {node for span in spans for node in complete_nodes(span)} | set(edge)
    hashes = await get_nodes(session, epoch, sorted(needed))
    return InclusionProof(
        leaf_index=index,
        tree_size=size,
        root_hash=Frontier(size, [hashes[node] for node in edge]).root,
        audit_path=prove_inclusion(index, size, hashes.__getitem__),
    )


async def get_consistency_proof(
    session: AsyncSession, epoch: int, first: int, second: int
) -> list[bytes]:
    """Prove that the tree of `second` extends that of `first` (RFC 9162 §2.1.4).

    Raises:
        NoSuchProof: not 1 ≤ first ≤ second ≤ the signed size.
        LedgerError: the stored tree is damaged.
    """
    await _check_signed(session, epoch, second)
    if not 1 <= first <= second:
        raise NoSuchProof(f"no consistency proof leads from size {first} to {second}")
    needed = {node for span in consistency_spans(first, second) for node in complete_nodes(span)}
    hashes = await get_nodes(session, epoch, sorted(needed))
    return prove_consistency(first, second, hashes.__getitem__)


async def _check_signed(session: AsyncSession, epoch: int, size: int) -> None:
    last = await find_latest_checkpoint(session, epoch)
    if last is None or size > last.tree_size:
        signed = 0 if last is None else last.tree_size
        raise NoSuchProof(f"the signed tree has {signed} entries, not {size}")


async def find_latest_checkpoint(session: AsyncSession, epoch: int) -> StoredCheckpoint | None:
    """Return the checkpoint of the largest tree, or None if nothing has been signed yet."""
    return await find_checkpoint(session, epoch)


async def find_checkpoint(
    session: AsyncSession, epoch: int, *, at_most: int | None = None
) -> StoredCheckpoint | None:
    """Return the checkpoint of the largest tree, of those with at most so many entries."""
    checkpoint = ledger_checkpoints.c
    query = select(ledger_checkpoints).where(checkpoint.epoch == epoch)
    if at_most is not None:
        query = query.where(checkpoint.tree_size <= at_most)
    query = query.order_by(checkpoint.tree_size.desc()).limit(1)
    row = (await session.execute(query)).mappings().one_or_none()
    return None if row is None else StoredCheckpoint(**row)


async def get_latest_checkpoint(
    session: AsyncSession, epoch: int | None = None
) -> StoredCheckpoint:
    """Return the checkpoint of the largest tree, of the present epoch unless told.

    Raises:
        NoCheckpoint: nothing has been signed yet.
    """
    wanted = await get_epoch(session) if epoch is None else epoch
    checkpoint = await find_latest_checkpoint(session, wanted)
    if checkpoint is None:
        raise NoCheckpoint(f"epoch {wanted} of the ledger has no checkpoint yet")
    return checkpoint


async def list_verifier_keys(session: AsyncSession, origin: str) -> list[VerifierKey]:
    """Return the keys that sign checkpoints of `origin`, the newest first."""
    key = signing_keys.c
    query = (
        select(key.public)
        .where(key.purpose == "ledger", key.state == "signing")
        .order_by(key.not_before.desc(), key.kid)
    )
    publics = (await session.execute(query)).scalars()
    return [VerifierKey(origin, Ed25519PublicKey.from_public_bytes(item)) for item in publics]
