"""How many agents of a fleet one person may revoke alone: beyond it, a second one has to agree."""

from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence.event import Actor
from tensorguard.services.people.second_person import find_persons_behind
from tensorguard.store.tables import agents, revocations

WINDOW: Final = timedelta(minutes=10)
ALONE_AT_LEAST: Final = 10
ALONE_PERCENT: Final = 5
_COUNTING: Final = 7290433


async def is_one_too_many(session: AsyncSession, fleet: str, *, by: Actor, now: datetime) -> bool:
    """Tell whether one more agent of the fleet takes a second person.

    An API key counts as the person who made it, and a person as all keys and accounts that they
    could use. Counted alone until the transaction ends, which has to be the one that revokes.
    Whoever works on the platform's machine has no limit.
    """
    if by.kind not in ("user", "api-key"):
        return False
    lock = sa.func.pg_advisory_xact_lock(_COUNTING, sa.func.hashtext(fleet))
    await session.execute(sa.select(lock))
    done = await _count_by(session, fleet, by, now)
    # Counting the fleet costs more, and most revocations are the only one of their day.
    return done >= ALONE_AT_LEAST and done >= await _count_allowed(session, fleet, now)


async def _count_by(session: AsyncSession, fleet: str, by: Actor, now: datetime) -> int:
    """How many of the fleet's agents were lately revoked by `by`, or by the same person."""
    query = (
        sa.select(revocations.c.revoked_by, sa.func.count().label("count"))
        .join(agents, agents.c.id == revocations.c.agent_id)
        .where(agents.c.fleet == fleet, revocations.c.revoked_at > now - WINDOW)
        .group_by(revocations.c.revoked_by)
    )
    persons = await find_persons_behind(session, by.id, now=now)
    total = 0
    for actor_id, count in await session.execute(query):
        others = {actor_id}
        if actor_id not in persons:
            others = await find_persons_behind(session, actor_id, now=now)
        if persons & others:
            total += count
    return total


async def _count_allowed(session: AsyncSession, fleet: str, now: datetime) -> int:
    lately = sa.and_(agents.c.status == "revoked", agents.c.revoked_at > now - WINDOW)
    counted = sa.or_(agents.c.status.in_(("active", "pending")), lately)
    query = sa.select(sa.func.count()).where(agents.c.fleet == fleet, counted)
    size = (await session.execute(query)).scalar_one()
    return max(ALONE_AT_LEAST, size * ALONE_PERCENT // 100)
