"""Broker fronts as the database knows them: which may hold sessions, and what they have applied."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.store.tables import broker_fronts

SESSIONS_END_AFTER: Final = timedelta(minutes=5)
"""A front that cannot read revocations for so long ends every agent's session by itself."""
# After its lease a front may hold sessions for so long, and clocks differ by a minute at most.
_GONE_AFTER: Final = SESSIONS_END_AFTER + timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class OwingFront:
    """A front that has not applied a revocation; without a lease it does not answer at all."""

    id: str
    applied_seq: int
    answers: bool


async def list_owing(session: AsyncSession, seq: int, *, now: datetime) -> list[OwingFront]:
    """Return the fronts that may hold a session which the revocation `seq` ends, by their ids.

    A front that started later has loaded the whole deny set before it listened. One whose lease ran
    out long ago has ended its sessions, or is no more.
    """
    table = broker_fronts
    query = sa.select(table.c.id, table.c.applied_seq, table.c.lease_until).where(
        table.c.applied_seq < seq, table.c.lease_until > now - _GONE_AFTER
    )
    return [
        OwingFront(row.id, row.applied_seq, row.lease_until > now)
        for row in await session.execute(query.order_by(table.c.id))
    ]
