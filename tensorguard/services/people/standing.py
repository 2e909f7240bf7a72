"""Whether those who were let in may stay: for connections that outlive the request."""

from collections.abc import Collection
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.people.access import Caller
from tensorguard.store.tables import api_keys, sessions, users


async def find_standing(
    session: AsyncSession, callers: Collection[Caller], *, idle: timedelta, now: datetime
) -> set[Caller]:
    """Return those whose session or API key is still good and whose role is still the same.

    Being asked about is no use of a session: an idle one ends.
    """
    by_session = {one.session_sha256: one for one in callers if one.session_sha256 is not None}
    by_key = {one.actor.id: one for one in callers if one.session_sha256 is None}
    standing: set[Caller] = set()
    if by_session:
        query = (
            sa.select(sessions.c.id_sha256, users.c.role)
            .join(users, users.c.id == sessions.c.user_id)
            .where(
                sessions.c.id_sha256.in_(by_session),
                sessions.c.expires_at > now,
                sessions.c.last_seen_at > now - idle,
                users.c.disabled_at.is_(None),
            )
        )
        for digest, role in await session.execute(query):
            caller = by_session[bytes(digest)]
            if caller.role == role:
                standing.add(caller)
    if by_key:
        keys = sa.select(api_keys.c.id, api_keys.c.role).where(
            sa.cast(api_keys.c.id, sa.Text).in_(by_key),
            api_keys.c.revoked_at.is_(None),
            sa.func.coalesce(api_keys.c.expires_at, sa.text("'infinity'")) > now,
        )
        for key_id, role in await session.execute(keys):
            caller = by_key[str(key_id)]
            if caller.role == role:
                standing.add(caller)
    return standing
