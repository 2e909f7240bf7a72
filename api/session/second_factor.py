"""`/api/v1/session/second-factor` and `…/step-up`: the codes of the caller's authenticator app."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.access import Requires
from api.context import ApiContext
from api.limits import limits
from api.routing import Context, Now, Session, new_router
from api.session.views import (
    EnrolmentView,
    EnrolSecondFactor,
    SessionView,
    ShowCode,
    SteppedUpView,
    session_view,
)
from tensorguard.services.evidence.event import Event
from tensorguard.services.evidence.events import SecondFactorFailed
from tensorguard.services.people import second_factor, users
from tensorguard.services.people.access import Caller, Permission

router = new_router("/api/v1/session", "session")
Own = Annotated[Caller, Requires(Permission.SESSION_OWN)]


@router.post("/second-factor", status_code=201)
@limits(replayable=False)
async def enrol(
    caller: Own, context: Context, session: Session, body: EnrolSecondFactor, now: Now
) -> EnrolmentView:
    """Make a secret for the caller's authenticator app; it counts once a code has confirmed it."""
    user_id, _ = second_factor.person_of(caller)
    async with _attempt(context, session, caller, "password", now):
        await _check_password(context, session, user_id, body.password.get_secret_value())
    made = await second_factor.enrol(session, context.kek, user_id, by=caller.actor, now=now)
    return EnrolmentView(secret=made.secret, uri=made.uri)


@router.post("/second-factor/confirm")
async def confirm(
    caller: Own, context: Context, session: Session, body: ShowCode, now: Now
) -> SessionView:
    """Let the app that shows this code be the caller's second factor; steps the session up too."""
    user_id, _ = second_factor.person_of(caller)
    async with _attempt(context, session, caller, "code", now):
        until = await second_factor.confirm(session, context.kek, caller, body.code, now=now)
    user = await users.get_user(session, user_id)
    return session_view(caller, user, stepped_up_until=until)


@router.delete("/second-factor", status_code=204)
async def remove(caller: Own, context: Context, session: Session, body: ShowCode, now: Now) -> None:
    """Take away the caller's second factor."""
    async with _attempt(context, session, caller, "code", now):
        await second_factor.remove(session, context.kek, caller, body.code, now=now)


@router.post("/step-up")
async def step_up(
    caller: Own, context: Context, session: Session, body: ShowCode, now: Now
) -> SteppedUpView:
    """Let the session do for ten minutes what takes a second factor."""
    async with _attempt(context, session, caller, "code", now):
        until = await second_factor.step_up(session, context.kek, caller, body.code, now=now)
    return SteppedUpView(stepped_up_until=until)


async def _check_password(
    context: ApiContext, session: AsyncSession, user_id: UUID, password: str
) -> None:
    stored = await users.find_password_hash_of(session, user_id)
    if not await context.passwords.verify(stored, password):
        raise second_factor.WrongPassword("this is not your password")


@asynccontextmanager
async def _attempt(
    context: ApiContext,
    session: AsyncSession,
    caller: Caller,
    proof: Literal["password", "code"],
    now: datetime,
) -> AsyncIterator[None]:
    """Let a proof of the caller's be tried, unless too many were wrong; count it until it is right.

    Counted before it is tried: many at the same time get no more tries than one after the other.
    Raises: TooManyRequests, PersonRequired.
    """
    user_id, _ = second_factor.person_of(caller)
    # Each proof by itself: whoever knows the password gets no more tries at the code by it.
    account = f"{proof}:{user_id}"
    context.attempts.check(account, None, now)
    context.attempts.failed(account, None, now)
    try:
        yield
    except (second_factor.WrongCode, second_factor.WrongPassword) as error:
        reason = error.code
        # What counts takes a connection too: whoever keeps one and waits for another may get none.
        await session.rollback()

        def failed(count: int, since: datetime) -> Event:
            return SecondFactorFailed(
                by=caller.actor, user_id=user_id, reason=reason, count=count, since=since
            )

        await context.denials.count(("second-factor", user_id, reason), failed)
        raise
    context.attempts.succeeded(account, None)
