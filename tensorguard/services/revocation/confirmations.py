"""The reconciler of the kill switch: every receipt in the ledger, partial at first if it has to be.

A revocation is owed an entry until all fronts have confirmed it; whoever is asked again and again
whether that is so may die in between without one being lost.
"""

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor, Event
from tensorguard.services.evidence.events import (
    AgentRevocationConfirmed,
    AgentRevocationPartial,
    FleetRevocationConfirmed,
    FleetRevocationPartial,
)
from tensorguard.services.revocation.fleet_revocations import get_fleet_receipt
from tensorguard.services.revocation.revocations import get_receipt
from tensorguard.store.tables import (
    agents,
    fleet_revocations,
    revocations,
    revocations_unconfirmed,
)

PARTIAL_AFTER: Final = timedelta(seconds=10)
"""Fronts that have not confirmed by then are named in the ledger, once."""
_HUB: Final = Actor("service", "hub")
_CONFIRMING: Final = 7290434
_AT_ONCE: Final = 500


async def confirm_revocations(session: AsyncSession, *, now: datetime) -> int:
    """Write the receipt of every revocation that all fronts have confirmed; return how many.

    One that is partial for 10 s is written as such, once, and its fronts are notified again each
    time. Each entry is written once, however many processes call this.
    """
    await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_CONFIRMING)))
    events: list[Event] = []
    done: list[int] = []
    late: list[int] = []
    owed = await _list_owed(session)
    for row in owed:
        tell = _agent_event if row.fleet_revocation_id is None else _fleet_event
        event, is_complete = await tell(session, row, now)
        if is_complete:
            done.append(row.seq)
            events.append(event)
        elif row.told_partial_at is None and now - row.revoked_at >= PARTIAL_AFTER:
            late.append(row.seq)
            events.append(event)
    table = revocations_unconfirmed
    await session.execute(sa.delete(table).where(table.c.seq.in_(done)))
    await session.execute(sa.update(table).where(table.c.seq.in_(late)).values(told_partial_at=now))
    await ledger.record_many(session, events, now=now)
    if len(done) < len(owed):
        await session.execute(sa.select(sa.func.pg_notify("tg_revocations", "")))
    return len(done)


async def _list_owed(session: AsyncSession) -> list[sa.Row[Any]]:
    table, fleet = revocations_unconfirmed.c, fleet_revocations.c
    query = (
        sa.select(
            table.seq,
            table.told_partial_at,
            table.fleet_revocation_id,
            revocations.c.agent_id,
            revocations.c.revoked_at,
            sa.func.coalesce(fleet.fleet, agents.c.fleet).label("fleet"),
        )
        .join(revocations, revocations.c.seq == table.seq)
        .join(agents, agents.c.id == revocations.c.agent_id)
        .outerjoin(fleet_revocations, fleet.id == table.fleet_revocation_id)
        # Those that wait for a front that does not answer must not keep the others waiting.
        .order_by(table.told_partial_at.is_not(None), table.seq)
        .limit(_AT_ONCE)
    )
    return list(await session.execute(query))


async def _agent_event(
    session: AsyncSession, row: sa.Row[Any], now: datetime
) -> tuple[Event, bool]:
    receipt = await get_receipt(session, row.agent_id, now=now)
    values: dict[str, Any] = {
        "by": _HUB,
        "fleet": row.fleet,
        "agent_id": receipt.agent_id,
        "seq": receipt.seq,
        "fronts_ms": {one.front: one.took_ms for one in receipt.fronts},
        "disconnected": sum(one.disconnected for one in receipt.fronts),
    }
    if not receipt.waiting_for:
        return AgentRevocationConfirmed(**values), True
    values |= {"waiting_for": receipt.waiting_for, "not_answering": receipt.not_answering}
    return AgentRevocationPartial(**values), False


async def _fleet_event(
    session: AsyncSession, row: sa.Row[Any], now: datetime
) -> tuple[Event, bool]:
    revocation_id: UUID = row.fleet_revocation_id
    receipt = await get_fleet_receipt(session, row.fleet, revocation_id, now=now)
    values: dict[str, Any] = {
        "by": _HUB,
        "fleet": row.fleet,
        "revocation_id": revocation_id,
        "agents": receipt.agents,
        "fronts_ms": receipt.fronts_ms,
        "disconnected": receipt.disconnected,
    }
    if not receipt.waiting_for:
        return FleetRevocationConfirmed(**values), True
    values |= {"waiting_for": receipt.waiting_for, "not_answering": receipt.not_answering}
    return FleetRevocationPartial(**values), False
