"""Users: people with a role and a password."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.errors import Conflict, Invalid, NotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import (
    UserCreated,
    UserDisabled,
    UserPasswordReset,
    UserRoleChanged,
)
from tensorguard.services.people.access import Role
from tensorguard.services.text import check_line
from tensorguard.store import tables
from tensorguard.store.ids import new_id

MIN_PASSWORD_LENGTH: Final = 12
MAX_PASSWORD_LENGTH: Final = 256
EMAIL_PATTERN: Final = r"^[!-?A-~]+@[!-?A-~]+$"
_EMAIL: Final = re.compile(EMAIL_PATTERN)
_EMAIL_LIMIT: Final = 254
SecondFactor = Literal["none", "pending", "active"]
# Users are changed one after the other, so that two of them cannot take the last admin away.
_LOCK: Final = 7290430


class UserNotFound(NotFound):
    """No user has this id or e-mail address."""

    code = "user-not-found"
    hint = "List the users."


class UserExists(Conflict):
    """The e-mail address belongs to a user already, perhaps a disabled one."""

    code = "user-exists"
    hint = "Reset that user's password, or use another address."


class LastAdmin(Conflict):
    """Nobody could administer the platform any more."""

    code = "last-admin"
    hint = "Make another user admin first."


class WeakPassword(Invalid):
    """The password is too short or too long."""

    code = "weak-password"
    hint = f"Use {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters."


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user as they may be shown: without the password's hash."""

    id: UUID
    email: str
    name: str
    role: Role
    created_at: datetime
    created_by: str | None
    disabled_at: datetime | None
    totp_secret_id: str | None = None
    totp_confirmed_at: datetime | None = None

    @property
    def second_factor(self) -> SecondFactor:
        """Whether the user has an authenticator app; a pending one counts once confirmed."""
        if self.totp_secret_id is None:
            return "none"
        return "pending" if self.totp_confirmed_at is None else "active"


_COLUMNS: Final = [tables.users.c[name] for name in User.__dataclass_fields__]


def check_password(password: str) -> None:
    """Refuse a password that is too short, or so long that hashing it costs.

    Raises: WeakPassword.
    """
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise WeakPassword(f"a password of {len(password)} characters is not accepted")


async def create_user(
    session: AsyncSession,
    *,
    email: str,
    name: str,
    role: Role,
    password_hash: str,
    by: Actor,
    now: datetime,
) -> User:
    """Add a user; the e-mail address is kept in lower case.

    Raises: Invalid, UserExists.
    """
    check_line("the user's name", name)
    if len(email) > _EMAIL_LIMIT or _EMAIL.fullmatch(email) is None:
        raise Invalid("the e-mail address has to be visible ASCII around one @")
    user = User(
        id=new_id(),
        email=email.lower(),
        name=name,
        role=role,
        created_at=now,
        created_by=by.id,
        disabled_at=None,
    )
    table = tables.users
    values = {field: getattr(user, field) for field in User.__dataclass_fields__}
    await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    taken = await session.execute(sa.select(table.c.id).where(table.c.email == user.email))
    if taken.first() is not None:
        raise UserExists("a user has this e-mail address already")
    await session.execute(
        sa.insert(table).values(**values, password_hash=password_hash, password_changed_at=now)
    )
    event = UserCreated(by=by, user_id=user.id, role=role, email=user.email, name=user.name)
    await ledger.record(session, event, now=now)
    return user


async def list_users(
    session: AsyncSession, *, after: UUID | None = None, limit: int = 50
) -> list[User]:
    """Return users, also disabled ones, in the order in which they were made."""
    query = sa.select(*_COLUMNS).order_by(tables.users.c.id).limit(limit)
    if after is not None:
        query = query.where(tables.users.c.id > after)
    return [_user(row) for row in await session.execute(query)]


async def get_user(session: AsyncSession, user_id: UUID, *, lock: bool = False) -> User:
    """Return one user.

    Raises: UserNotFound.
    """
    query = sa.select(*_COLUMNS).where(tables.users.c.id == user_id)
    if lock:
        query = query.with_for_update()
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise UserNotFound(f"there is no user {user_id}")
    return _user(row)


async def get_user_by_email(session: AsyncSession, email: str) -> User:
    """Return one user.

    Raises: UserNotFound.
    """
    query = sa.select(*_COLUMNS).where(tables.users.c.email == email.lower())
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise UserNotFound("no user has this e-mail address")
    return _user(row)


async def find_password_hash(session: AsyncSession, email: str) -> tuple[User, str] | None:
    """Return a user who may sign in with the hash of their password."""
    table = tables.users
    query = sa.select(*_COLUMNS, table.c.password_hash).where(
        table.c.email == email.lower(), table.c.disabled_at.is_(None)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    values = {name: row._mapping[name] for name in User.__dataclass_fields__}
    return User(**{**values, "role": Role(values["role"])}), row.password_hash


async def find_password_hash_of(session: AsyncSession, user_id: UUID) -> str | None:
    """Return the hash of a user's password; None where there is no such user."""
    table = tables.users
    query = sa.select(table.c.password_hash).where(table.c.id == user_id)
    return (await session.execute(query)).scalar_one_or_none()


async def change_role(
    session: AsyncSession, user_id: UUID, role: Role, *, by: Actor, now: datetime
) -> User:
    """Give a user another role; counts from their next request on.

    Raises: UserNotFound, LastAdmin.
    """
    await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    user = await get_user(session, user_id, lock=True)
    if user.role == role:
        return user
    if role != Role.ADMIN:
        await _keep_an_admin(session, user)
    await _set(session, user_id, role=role)
    event = UserRoleChanged(by=by, user_id=user_id, before=user.role, after=role)
    await ledger.record(session, event, now=now)
    return await get_user(session, user_id)


async def disable_user(session: AsyncSession, user_id: UUID, *, by: Actor, now: datetime) -> User:
    """End a user's sessions and let them sign in no more; doing it twice changes nothing.

    Raises: UserNotFound, LastAdmin.
    """
    await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    user = await get_user(session, user_id, lock=True)
    if user.disabled_at is not None:
        return user
    await _keep_an_admin(session, user)
    await _set(session, user_id, disabled_at=now)
    await _end_sessions(session, user_id)
    await ledger.record(session, UserDisabled(by=by, user_id=user_id), now=now)
    return await get_user(session, user_id)


async def reset_password(
    session: AsyncSession, user_id: UUID, *, password_hash: str, by: Actor, now: datetime
) -> User:
    """Set a password and end the user's sessions.

    Raises: UserNotFound.
    """
    await get_user(session, user_id, lock=True)
    await _set(
        session,
        user_id,
        password_hash=password_hash,
        password_changed_at=now,
        password_reset_by=by.id,
    )
    await _end_sessions(session, user_id)
    await ledger.record(session, UserPasswordReset(by=by, user_id=user_id), now=now)
    return await get_user(session, user_id)


async def _keep_an_admin(session: AsyncSession, leaving: User) -> None:
    table = tables.users
    if leaving.role != Role.ADMIN:
        return
    others = await session.execute(
        sa.select(table.c.id)
        .where(table.c.role == Role.ADMIN, table.c.disabled_at.is_(None), table.c.id != leaving.id)
        .limit(1)
    )
    if others.first() is None:
        raise LastAdmin("this is the last admin who can sign in")


async def _set(session: AsyncSession, user_id: UUID, **values: object) -> None:
    table = tables.users
    await session.execute(sa.update(table).where(table.c.id == user_id).values(**values))


async def _end_sessions(session: AsyncSession, user_id: UUID) -> None:
    table = tables.sessions
    await session.execute(sa.delete(table).where(table.c.user_id == user_id))


def _user(row: sa.Row[tuple[object, ...]]) -> User:
    values = dict(row._mapping)
    return User(**{**values, "role": Role(values["role"])})
