"""Giving committed events their place in the tree, and signing what is committed."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.checkpoint import (
    Checkpoint,
    Signer,
    ledger_origin,
    sign_checkpoint,
)
from tensorguard.ledger.errors import LedgerError, LedgerForked
from tensorguard.ledger.tree import leaf_hash
from tensorguard.services.evidence.tree_queries import (
    StoredCheckpoint,
    find_latest_checkpoint,
    get_epoch,
    get_frontier,
    get_size,
)
from tensorguard.services.hints import Hint, HintKind, tell

LOCK = 7290411  # of everyone who grows or signs the tree; the migration's is 7290410
BATCH_EVENTS = 2000
CHECKPOINT_EVERY = timedelta(seconds=1)

# Queue rows, never a cursor over ids or times: commits land out of order. The planner may believe
# that the queue is long, so the limit stands inside: ledger_events is then read by its key.
_TAKE = text("""
    SELECT taken.event_id, event.entry
    FROM (SELECT event_id FROM ledger_unsequenced ORDER BY event_id LIMIT :limit) AS taken
    JOIN ledger_events AS event ON event.id = taken.event_id
    ORDER BY taken.event_id
""")
_STORE_ENTRIES = text("""
    INSERT INTO ledger_entries (epoch, leaf_index, event_id, leaf_hash)
    SELECT :epoch, :first + place - 1, event_id, leaf_hash
    FROM unnest(CAST(:ids AS uuid[]), CAST(:hashes AS bytea[]))
         WITH ORDINALITY AS leaf (event_id, leaf_hash, place)
""")
_STORE_HASHES = text("""
    INSERT INTO ledger_hashes (epoch, level, index, hash)
    SELECT :epoch, node.* FROM unnest(CAST(:levels AS smallint[]), CAST(:offsets AS bigint[]),
                         CAST(:hashes AS bytea[])) AS node
""")
_FORGET = text("DELETE FROM ledger_unsequenced WHERE event_id = ANY(CAST(:ids AS uuid[]))")
_STORE_CHECKPOINT = text("""
    INSERT INTO ledger_checkpoints (epoch, tree_size, root_hash, note, signed_at)
    VALUES (:epoch, :size, :root, :note, :now)
""")


async def sequence(session: AsyncSession, *, limit: int = BATCH_EVENTS) -> int:
    """Append the events that wait, `limit` at most, to the tree; return how many they were.

    0 also when another sequencer is at work. The lock is held until the caller's transaction
    ends, so indexes are assigned by one transaction at a time; should a snapshot be older than
    the lock after all, the primary key over leaf_index refuses.

    Raises:
        LedgerError: the stored tree is damaged; nothing may be committed.
    """
    query = "SELECT EXISTS (SELECT FROM ledger_unsequenced)"
    if not (await session.execute(text(query))).scalar() or not await lead(session):
        return 0
    rows = (await session.execute(_TAKE, {"limit": limit})).all()
    if not rows:
        return 0
    epoch = await get_epoch(session)
    await append(session, epoch, [(event_id, entry) for event_id, entry in rows])
    return len(rows)


async def append(session: AsyncSession, epoch: int, events: Sequence[tuple[UUID, bytes]]) -> int:
    """Give events, by id and exact bytes, the next places in the tree of `epoch`; return the first.

    For whoever leads, and nobody else. Raises: LedgerError: the stored tree is damaged.
    """
    frontier = await get_frontier(session, epoch, await get_size(session, epoch))
    first, leaves, nodes = frontier.size, [leaf_hash(entry) for _, entry in events], []
    for leaf in leaves:
        nodes.extend(frontier.append(leaf))
    ids = [event_id for event_id, _ in events]
    values = {"epoch": epoch, "first": first, "ids": ids, "hashes": leaves}
    await session.execute(_STORE_ENTRIES, values)
    if nodes:
        await session.execute(
            _STORE_HASHES,
            {
                "epoch": epoch,
                "levels": [node.level for node, _ in nodes],
                "offsets": [node.offset for node, _ in nodes],
                "hashes": [value for _, value in nodes],
            },
        )
    forgotten = await session.execute(_FORGET, {"ids": ids})
    if forgotten.rowcount != len(ids):  # type: ignore[attr-defined] # a DELETE's result counts
        raise LedgerError("events left the queue without having been sequenced")
    return first


async def sign_latest(
    session: AsyncSession,
    *,
    trust_domain: str,
    signers: Sequence[Signer],
    now: datetime,
    every: timedelta = CHECKPOINT_EVERY,
) -> Checkpoint | None:
    """Sign and store a checkpoint of the committed tree, in a transaction that did nothing else.

    None when nothing is new, the last checkpoint is younger than `every`, or another sequencer
    is at work.

    Raises:
        LedgerForked: the tree no longer holds what the last checkpoint says; nothing is signed.
        LedgerError: the stored tree is damaged.
    """
    if not await lead(session):
        return None
    epoch = await get_epoch(session)
    size, last = await get_size(session, epoch), await find_latest_checkpoint(session, epoch)
    if last is not None:
        if size < last.tree_size:
            raise LedgerForked(f"the tree has {size} entries, {last.tree_size} were signed")
        age = now - last.signed_at
        if size == last.tree_size or timedelta(0) <= age < every:
            return None
        await _check_prefix(session, last)
    elif size == 0:
        return None
    root = (await get_frontier(session, epoch, size)).root
    checkpoint = Checkpoint(ledger_origin(trust_domain, epoch), size, root)
    note = sign_checkpoint(checkpoint, signers)
    values = {"epoch": epoch, "size": size, "root": root, "note": note, "now": now}
    await session.execute(_STORE_CHECKPOINT, values)
    await tell(session, [Hint(HintKind.LEDGER, str(size))], now=now)
    return checkpoint


async def wait_to_lead(session: AsyncSession) -> None:
    """Wait for the sequencer's lock, and hold it until the transaction ends; the role stays."""
    await session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


async def lead(session: AsyncSession) -> bool:
    """Take the sequencer's lock and role until the transaction ends, unless another has them."""
    query = text("SELECT pg_try_advisory_xact_lock(:lock)")
    if not (await session.execute(query, {"lock": LOCK})).scalar():
        return False
    await session.execute(text("SET LOCAL ROLE tg_sequencer"))
    return True


async def _check_prefix(session: AsyncSession, last: StoredCheckpoint) -> None:
    root = (await get_frontier(session, last.epoch, last.tree_size)).root
    if root != last.root_hash:
        raise LedgerForked(f"the first {last.tree_size} entries are not those that were signed")
