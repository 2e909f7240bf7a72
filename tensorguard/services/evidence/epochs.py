"""A new epoch of the ledger: how a platform goes on after a restore that lost signed entries."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.checkpoint import ledger_origin, parse_checkpoint
from tensorguard.services.errors import Invalid
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.ledger_events import LedgerEpochBegan
from tensorguard.services.evidence.sequencing import append, wait_to_lead
from tensorguard.services.evidence.tree_queries import (
    find_latest_checkpoint,
    get_epoch,
    get_size,
)
from tensorguard.services.evidence.witnesses import seen_in
from tensorguard.services.text import check_line
from tensorguard.store.tables import ledger_events, ledger_forks, platform

MAX_REASON = 500


class ForeignCheckpoint(Invalid):
    """The checkpoint is not of this platform's ledger."""

    code = "foreign-checkpoint"
    hint = "Give the note that a host, a device, a sink or a bucket of this platform has kept."


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """An epoch that has begun, and the ledger's name in it."""

    number: int
    origin: str
    held: int


async def begin_epoch(
    session: AsyncSession, *, reason: str, last_note: str | None, by: Actor, now: datetime
) -> NewEpoch:
    """Begin the next epoch: a tree of its own, whose first entry says what was before, and why.

    `last_note` is the last checkpoint that anybody knows of; without it, the last that is stored.
    Desired documents, too, are above those of before from then on: (epoch, revision) only rises.
    Raises: Invalid, ForeignCheckpoint, BadCheckpoint, LedgerError.
    """
    check_line("the reason", reason, limit=MAX_REASON)
    await wait_to_lead(session)
    trust_domain = (await session.execute(sa.select(platform.c.trust_domain))).scalar_one()
    present = await get_epoch(session)
    beyond = present
    if last_note is None:
        stored = await find_latest_checkpoint(session, present)
        last_note = None if stored is None else stored.note
    else:
        seen = parse_checkpoint(last_note)
        if not seen.origin.startswith(f"{trust_domain}/ledger/"):
            raise ForeignCheckpoint(f"the checkpoint is of {seen.origin[:200]!r}")
        beyond = max(present, seen_in(seen).epoch)
    number, held = beyond + 1, await get_size(session, present)
    event = LedgerEpochBegan(by=by, epoch=number, reason=reason, checkpoint=last_note, held=held)
    event_id = await ledger.record(session, event, now=now)
    entry = sa.select(ledger_events.c.entry).where(ledger_events.c.id == event_id)
    exact = (await session.execute(entry)).scalar_one()
    await session.execute(sa.update(platform).values(epoch=number))
    await session.execute(sa.delete(ledger_forks))
    await session.execute(sa.select(sa.func.pg_notify("tg_trust", "epoch")))
    await session.execute(sa.text("SET LOCAL ROLE tg_sequencer"))
    await append(session, number, [(event_id, exact)])
    await session.execute(sa.text("SET LOCAL ROLE NONE"))
    return NewEpoch(number, ledger_origin(trust_domain, number), held)
