"""Reading recoveries: who asks to come back after the certificate's end."""

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.store.tables import agents, certificates, recoveries

_COLUMNS = (
    recoveries.c.id,
    recoveries.c.agent_id,
    agents.c.name.label("agent_name"),
    agents.c.fleet,
    recoveries.c.serial,
    certificates.c.not_after.label("expired_at"),
    recoveries.c.peer,
    recoveries.c.reason,
    recoveries.c.requested_at,
    recoveries.c.expires_at,
    recoveries.c.decided_at,
    recoveries.c.decided_by,
)


def state_at(now: datetime) -> sa.ColumnElement[str]:
    """Return the state, in which a pending one whose time is over has expired."""
    table = recoveries.c
    late = (table.state == "pending") & (table.expires_at <= now)
    return sa.case((late, "expired"), else_=table.state)


async def list_recoveries(
    session: AsyncSession,
    *,
    state: str | None = None,
    after: tuple[datetime, UUID] | None = None,
    limit: int = 50,
    now: datetime,
) -> list[sa.RowMapping]:
    """Return recoveries with their agents' names and fleets, the newest first."""
    place = (recoveries.c.requested_at, recoveries.c.id)
    query = _shown(now).order_by(*(part.desc() for part in place)).limit(limit)
    if state is not None:
        query = query.where(state_at(now) == state)
    if after is not None:
        requested_at, recovery_id = after
        there = sa.tuple_(sa.literal(requested_at, place[0].type), sa.literal(recovery_id, sa.Uuid))
        query = query.where(sa.tuple_(*place) < there)
    return list((await session.execute(query)).mappings())


async def find_recovery(
    session: AsyncSession, recovery_id: UUID, *, now: datetime
) -> sa.RowMapping | None:
    """Return one recovery as the list shows it, or None if there is none of this id."""
    query = _shown(now).where(recoveries.c.id == recovery_id)
    row: sa.RowMapping | None = (await session.execute(query)).mappings().one_or_none()
    return row


def _shown(now: datetime) -> sa.Select[Any]:
    return (
        sa.select(*_COLUMNS, state_at(now).label("state"))
        .join(agents, agents.c.id == recoveries.c.agent_id)
        .join(certificates, certificates.c.serial == recoveries.c.serial)
    )
