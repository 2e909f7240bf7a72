"""What was seen of the ledger elsewhere, held against what it is: a fork cannot stay unseen.

A device, a file of a host or a bucket remembers a checkpoint. A database that was restored from too
old a backup, or whose past was rewritten, cannot extend it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.checkpoint import Checkpoint, epoch_of
from tensorguard.ledger.errors import LedgerError
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import SYSTEM
from tensorguard.services.evidence.ledger_events import LedgerForkSeen
from tensorguard.services.evidence.tree_queries import get_epoch, get_frontier, get_size
from tensorguard.store.tables import agent_state, agents, ledger_checkpoints, ledger_forks

Reason = Literal["newer-epoch", "larger", "other-root"]
MOST_NAMED: Final = 100


class LedgerRestored(LedgerError):
    """The ledger is older than a checkpoint that was seen elsewhere, or another one."""

    code = "ledger-restored"
    hint = (
        "Restore a newer backup; if there is none, go on with"
        " 'tensorguard ledger new-epoch --reason …'."
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkpoint that somebody remembers."""

    epoch: int
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Fork:
    """A checkpoint that this ledger cannot extend; `our_root` is its own at that size, if any."""

    seen: Seen
    reason: Reason
    our_root: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedFork:
    """A fork that a device has reported, and that no new epoch has settled yet."""

    epoch: int
    tree_size: int
    root_hash: bytes
    agent_id: UUID
    reason: str
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceWitnesses:
    """How many active agents remember a checkpoint of an epoch, of how many active ones at all."""

    agents: int
    active_agents: int
    largest_size: int | None
    heard_at: datetime | None


def seen_in(checkpoint: Checkpoint) -> Seen:
    """Return what a note says, with the epoch that its origin names. Raises: BadCheckpoint."""
    return Seen(epoch_of(checkpoint.origin), checkpoint.size, checkpoint.root)


async def find_fork(session: AsyncSession, seen: Seen) -> Fork | None:
    """Return why the ledger cannot extend what was seen, or None where it does.

    Raises: LedgerError: the stored tree is damaged.
    """
    present = await get_epoch(session)
    if seen.epoch > present:
        return Fork(seen, "newer-epoch", None)
    stored = ledger_checkpoints.c
    query = sa.select(stored.root_hash).where(
        stored.epoch == seen.epoch, stored.tree_size == seen.size
    )
    root = (await session.execute(query)).scalar_one_or_none()
    if root is None:
        if seen.size > await get_size(session, seen.epoch):
            # What an older epoch lost is why the present one began.
            return Fork(seen, "larger", None) if seen.epoch == present else None
        root = (await get_frontier(session, seen.epoch, seen.size)).root
    if bytes(root) == seen.root:
        return None
    return Fork(seen, "other-root", bytes(root)) if seen.epoch == present else None


async def check_extends(session: AsyncSession, checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse where the ledger cannot extend one of these: before anything is sequenced or signed.

    Raises: LedgerRestored; LedgerError.
    """
    for checkpoint in checkpoints:
        fork = await find_fork(session, seen_in(checkpoint))
        if fork is None:
            continue
        seen = fork.seen
        if fork.reason == "other-root":
            raise LedgerRestored(
                f"a checkpoint of {seen.size} entries in epoch {seen.epoch} was seen with the root"
                f" {seen.root.hex()}, and this ledger has {(fork.our_root or b'').hex()}"
            )
        have = await get_epoch(session), await get_size(session, await get_epoch(session))
        raise LedgerRestored(
            f"a checkpoint of {seen.size} entries in epoch {seen.epoch} was seen, and this ledger"
            f" has {have[1]} in epoch {have[0]}: the database was restored from an older backup"
        )


async def report_fork(
    session: AsyncSession, agent_id: UUID, fleet: str, fork: Fork, *, now: datetime
) -> bool:
    """Raise the alarm over what a device saw; tell whether it is news.

    One alarm a checkpoint and one a device: who claims many things is heard once.
    """
    seen = fork.seen
    statement = (
        insert(ledger_forks)
        .values(
            epoch=seen.epoch,
            tree_size=seen.size,
            root_hash=seen.root,
            agent_id=agent_id,
            reason=fork.reason,
            seen_at=now,
        )
        .on_conflict_do_nothing()
        .returning(ledger_forks.c.agent_id)
    )
    if (await session.execute(statement)).first() is None:
        return False
    event = LedgerForkSeen(
        by=SYSTEM,
        fleet=fleet,
        agent_id=agent_id,
        epoch=seen.epoch,
        size=seen.size,
        seen_root=seen.root,
        our_root=fork.our_root,
        reason=fork.reason,
    )
    await ledger.record(session, event, now=now)
    return True


async def list_forks(session: AsyncSession) -> list[ReportedFork]:
    """Return the alarms that stand, the newest first, a hundred at most."""
    columns = [ledger_forks.c[name] for name in ReportedFork.__dataclass_fields__]
    query = sa.select(*columns).order_by(ledger_forks.c.seen_at.desc()).limit(MOST_NAMED)
    return [ReportedFork(**row) for row in (await session.execute(query)).mappings()]


async def count_witnesses(session: AsyncSession, epoch: int) -> DeviceWitnesses:
    """Return who remembers checkpoints of an epoch, as their last heartbeats said."""
    state = agent_state.c
    remembers = state.ledger_epoch == epoch
    query = (
        sa.select(
            sa.func.count(state.ledger_size).filter(remembers),
            sa.func.count(),
            sa.func.max(state.ledger_size).filter(remembers),
            sa.func.max(state.received_at).filter(remembers),
        )
        .select_from(agents)
        .outerjoin(agent_state, state.agent_id == agents.c.id)
        .where(agents.c.status == "active")
    )
    count, active, largest, heard_at = (await session.execute(query)).one()
    return DeviceWitnesses(
        agents=count, active_agents=active, largest_size=largest, heard_at=heard_at
    )
