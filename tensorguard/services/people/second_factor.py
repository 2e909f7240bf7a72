"""The second factor: one-time codes of an authenticator app, and stepping up a session with one.

The secret is sealed in `secrets`. A code counts once: the step of the last one is kept with the
user and only moves forward, under the row's lock.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.errors import Conflict, Denied
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import (
    SecondFactorBegun,
    SecondFactorConfirmed,
    SecondFactorRemoved,
    SecondFactorReset,
    SessionSteppedUp,
)
from tensorguard.services.keys.sealed_rows import open_stored, store_secret
from tensorguard.services.people.access import Caller
from tensorguard.services.people.totp import SECRET_BYTES, find_step, provisioning_uri, secret_text
from tensorguard.services.people.users import User, get_user
from tensorguard.store import tables
from tensorguard.vault.provider import KeyProvider

PURPOSE: Final = "totp"
STEPPED_UP_FOR: Final = timedelta(minutes=10)


class PersonRequired(Denied):
    """An API key, or a session that has ended, asks for what only a person may do."""

    code = "person-required"
    hint = "Sign in as a person: an API key cannot do this."


class SecondFactorMissing(Denied):
    """The user has no second factor that could be shown."""

    code = "second-factor-missing"
    hint = "Set up an authenticator app for your account first: POST /api/v1/session/second-factor."


class StepUpRequired(Denied):
    """The session has not shown a code of the second factor in the last ten minutes."""

    code = "step-up-required"
    hint = "Show a code of your authenticator app: POST /api/v1/session/step-up."


class WrongCode(Denied):
    """The code is not the app's present one, or was used before."""

    code = "wrong-code"
    hint = (
        "Wait for the next code: each counts once. Check that the app's device has the right time."
    )


class WrongPassword(Denied):
    """The password is not the signed-in user's."""

    code = "wrong-password"
    hint = "Type the password that you sign in with."


class SecondFactorActive(Conflict):
    """The user has a second factor already."""

    code = "second-factor-active"
    hint = "Remove it first, with one of its codes; an administrator can reset a lost one."


class OwnSecondFactor(Denied):
    """An administrator would take away their own second factor without showing a code."""

    code = "own-second-factor"
    hint = "Use DELETE /api/v1/session/second-factor with a code, or ask another administrator."


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A secret that was just made, for the user's app; it is never shown again."""

    secret: str
    uri: str

    def __repr__(self) -> str:
        return "Enrolment(<hidden>)"


def person_of(caller: Caller) -> tuple[UUID, bytes]:
    """Return a signed-in person's user id and session. Raises: PersonRequired."""
    if caller.user_id is None or caller.session_sha256 is None:
        raise PersonRequired("this is for a person who has signed in, not for an API key")
    return caller.user_id, caller.session_sha256


async def enrol(
    session: AsyncSession, kek: KeyProvider, user_id: UUID, *, by: Actor, now: datetime
) -> Enrolment:
    """Make a secret for a user whose password was just verified; it counts once confirmed.

    Raises: SecondFactorActive, UserNotFound, VaultError.
    """
    user = await get_user(session, user_id, lock=True)
    if user.second_factor == "active":
        raise SecondFactorActive("there is a second factor already")
    secret = secrets.token_bytes(SECRET_BYTES)
    await _forget_secret(session, user)
    secret_id = await store_secret(
        session, kek, secret, purpose=PURPOSE, owner=str(user_id), now=now
    )
    await _set(session, user_id, totp_secret_id=secret_id, totp_confirmed_at=None, totp_step=0)
    await ledger.record(session, SecondFactorBegun(by=by, user_id=user_id), now=now)
    return Enrolment(secret_text(secret), provisioning_uri(secret, user.email))


async def confirm(
    session: AsyncSession, kek: KeyProvider, caller: Caller, code: str, *, now: datetime
) -> datetime:
    """Let the app that shows `code` be the caller's second factor, and step up their session.

    Raises: PersonRequired, SecondFactorMissing, SecondFactorActive, WrongCode, VaultError.
    """
    user_id, _ = person_of(caller)
    user = await get_user(session, user_id, lock=True)
    if user.second_factor == "active":
        raise SecondFactorActive("the second factor is confirmed already")
    await _use_code(session, kek, user, code, now)
    await _set(session, user_id, totp_confirmed_at=now)
    event = SecondFactorConfirmed(by=caller.actor, user_id=user_id)
    await ledger.record(session, event, now=now)
    return await _step_up(session, caller, now)


async def step_up(
    session: AsyncSession, kek: KeyProvider, caller: Caller, code: str, *, now: datetime
) -> datetime:
    """Let the caller's session do for ten minutes what takes a second factor.

    Raises: PersonRequired, SecondFactorMissing, WrongCode, VaultError.
    """
    await _show_code(session, kek, caller, code, now)
    return await _step_up(session, caller, now)


async def remove(
    session: AsyncSession, kek: KeyProvider, caller: Caller, code: str, *, now: datetime
) -> None:
    """Take the caller's second factor away, and with it what their sessions may do.

    Raises: PersonRequired, SecondFactorMissing, WrongCode, VaultError.
    """
    user = await _show_code(session, kek, caller, code, now)
    await _forget(session, user)
    event = SecondFactorRemoved(by=caller.actor, user_id=user.id)
    await ledger.record(session, event, now=now)


async def reset(session: AsyncSession, user_id: UUID, *, by: Actor, now: datetime) -> User:
    """Take away the second factor of a user who has lost it; who did so is kept.

    Where there is none, nothing changes.
    Raises: UserNotFound, OwnSecondFactor.
    """
    if by.id == str(user_id):
        raise OwnSecondFactor("nobody resets their own second factor")
    user = await get_user(session, user_id, lock=True)
    if user.second_factor == "none":
        return user
    await _forget(session, user)
    await _set(session, user_id, totp_reset_at=now, totp_reset_by=by.id)
    await ledger.record(session, SecondFactorReset(by=by, user_id=user_id), now=now)
    return await get_user(session, user_id)


async def require_step_up(session: AsyncSession, caller: Caller, *, now: datetime) -> None:
    """Let a person pass whose session has shown a code in the last ten minutes.

    Raises: PersonRequired, SecondFactorMissing, StepUpRequired.
    """
    user_id, session_sha256 = person_of(caller)
    table, users = tables.sessions, tables.users
    query = (
        sa.select(table.c.stepped_up_until, users.c.totp_confirmed_at)
        .join(users, users.c.id == table.c.user_id)
        .where(
            table.c.id_sha256 == session_sha256,
            table.c.user_id == user_id,
            table.c.expires_at > now,
            users.c.disabled_at.is_(None),
        )
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise PersonRequired("the session has ended", hint="Sign in again.")
    if row.totp_confirmed_at is None:
        raise SecondFactorMissing("this takes a second factor, and you have none")
    if row.stepped_up_until is None or row.stepped_up_until <= now:
        raise StepUpRequired("this takes a code of your second factor")


async def find_stepped_up_until(
    session: AsyncSession, caller: Caller, *, now: datetime
) -> datetime | None:
    """Return until when the caller's session is stepped up; None if it is not."""
    if caller.session_sha256 is None:
        return None
    table = tables.sessions
    query = sa.select(table.c.stepped_up_until).where(
        table.c.id_sha256 == caller.session_sha256, table.c.stepped_up_until > now
    )
    return (await session.execute(query)).scalar_one_or_none()


async def _show_code(
    session: AsyncSession, kek: KeyProvider, caller: Caller, code: str, now: datetime
) -> User:
    user_id, _ = person_of(caller)
    user = await get_user(session, user_id, lock=True)
    if user.second_factor != "active":
        raise SecondFactorMissing("there is no confirmed second factor")
    await _use_code(session, kek, user, code, now)
    return user


async def _use_code(
    session: AsyncSession, kek: KeyProvider, user: User, code: str, now: datetime
) -> None:
    """Accept a code of a user whose row is locked, and never again."""
    if user.second_factor == "none":
        raise SecondFactorMissing("there is no second factor")
    query = sa.select(tables.users.c.totp_step).where(tables.users.c.id == user.id)
    last = (await session.execute(query)).scalar_one()
    secret = await open_stored(session, kek, purpose=PURPOSE, owner=str(user.id))
    step = find_step(secret, code, after=last, now=now)
    if step is None:
        raise WrongCode("this code is not the present one, or was used before")
    await _set(session, user.id, totp_step=step)


async def _step_up(session: AsyncSession, caller: Caller, now: datetime) -> datetime:
    user_id, session_sha256 = person_of(caller)
    table = tables.sessions
    until = now + STEPPED_UP_FOR
    done = await session.execute(
        sa.update(table)
        .where(table.c.id_sha256 == session_sha256, table.c.user_id == user_id)
        .values(stepped_up_until=until)
        .returning(table.c.user_id)
    )
    if done.first() is None:
        raise PersonRequired("the session has ended", hint="Sign in again.")
    event = SessionSteppedUp(by=caller.actor, user_id=user_id, until=until)
    await ledger.record(session, event, now=now)
    return until


async def _forget(session: AsyncSession, user: User) -> None:
    await _forget_secret(session, user)
    table = tables.sessions
    await session.execute(
        sa.update(table).where(table.c.user_id == user.id).values(stepped_up_until=None)
    )


async def _forget_secret(session: AsyncSession, user: User) -> None:
    await _set(session, user.id, totp_secret_id=None, totp_confirmed_at=None, totp_step=0)
    table = tables.secrets
    await session.execute(
        sa.delete(table).where(table.c.purpose == PURPOSE, table.c.owner == str(user.id))
    )


async def _set(session: AsyncSession, user_id: UUID, **values: object) -> None:
    table = tables.users
    await session.execute(sa.update(table).where(table.c.id == user_id).values(**values))
