"""Sessions: how people stay signed in. The cookie's value is random; only its hash is kept."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import SessionSignedIn, SessionSignedOut
from tensorguard.services.people.access import Caller, Role
from tensorguard.services.people.users import User
from tensorguard.store import tables

SECRET_BYTES: Final = 32
_SEEN_STEP: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that was just opened; `secret` is the cookie's value."""

    secret: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"NewSession(secret=<hidden>, expires_at={self.expires_at})"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


async def open_session(
    session: AsyncSession, user: User, *, lifetime: timedelta, now: datetime, address: str
) -> NewSession:
    """Sign in a user whose password was just verified; their ended sessions are removed.

    `address` is the client's: the ledger keeps it in private.
    """
    table = tables.sessions
    secret = secrets.token_urlsafe(SECRET_BYTES)
    await session.execute(
        sa.delete(table).where(table.c.user_id == user.id, table.c.expires_at <= now)
    )
    await session.execute(
        sa.insert(table).values(
            id_sha256=_digest(secret),
            user_id=user.id,
            created_at=now,
            last_seen_at=now,
            expires_at=now + lifetime,
        )
    )
    event = SessionSignedIn(by=Actor("user", str(user.id)), user_id=user.id, address=address)
    await ledger.record(session, event, now=now)
    return NewSession(secret, now + lifetime)


async def find_caller(
    session: AsyncSession, secret: str, *, idle: timedelta, now: datetime
) -> Caller | None:
    """Return the user of a session; None if it has ended, was idle for longer, or never was."""
    table, users = tables.sessions, tables.users
    digest = _digest(secret)
    query = (
        sa.select(table.c.last_seen_at, users.c.id, users.c.role)
        .join(users, users.c.id == table.c.user_id)
        .where(
            table.c.id_sha256 == digest,
            table.c.expires_at > now,
            table.c.last_seen_at > now - idle,
            users.c.disabled_at.is_(None),
        )
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    if now - row.last_seen_at >= _SEEN_STEP:
        await session.execute(
            sa.update(table).where(table.c.id_sha256 == digest).values(last_seen_at=now)
        )
    return Caller(Actor("user", str(row.id)), Role(row.role), row.id, digest)


async def close_session(session: AsyncSession, caller: Caller, *, now: datetime) -> None:
    """Sign out; the session's cookie is worth nothing from then on."""
    if caller.session_sha256 is None or caller.user_id is None:
        return
    table = tables.sessions
    await session.execute(sa.delete(table).where(table.c.id_sha256 == caller.session_sha256))
    event = SessionSignedOut(by=caller.actor, user_id=caller.user_id)
    await ledger.record(session, event, now=now)
