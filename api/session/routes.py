"""`/api/v1/session`: sign in, sign out, and who am I."""

from datetime import datetime
from typing import Annotated

from fastapi import Request, Response

from api.access import PUBLIC, Requires
from api.errors import BadCredentials
from api.limits import limits
from api.routing import Context, Now, Session, new_router
from api.session.views import SessionView, SignIn, session_view
from tensorguard.services.enrollment.enrollment_failures import network_of
from tensorguard.services.evidence.event import SYSTEM, Actor, Event
from tensorguard.services.evidence.events import SessionFailed
from tensorguard.services.people import sessions, users
from tensorguard.services.people.access import Caller, Permission
from tensorguard.services.people.second_factor import find_stepped_up_until

router = new_router("/api/v1/session", "session")
Own = Annotated[Caller, Requires(Permission.SESSION_OWN)]


@router.post("", dependencies=[PUBLIC], status_code=201)
@limits(replayable=False)
async def sign_in(
    request: Request, response: Response, context: Context, session: Session, body: SignIn, now: Now
) -> SessionView:
    """Open a session; its cookie is HttpOnly and dies with the session."""
    address = request.client.host if request.client else "unknown"
    user = await _verified(address, context, body, now)
    opened = await sessions.open_session(
        session, user, lifetime=context.settings.session_lifetime, now=now, address=address
    )
    response.set_cookie(
        context.settings.cookie_name,
        opened.secret,
        max_age=int(context.settings.session_lifetime.total_seconds()),
        path="/",
        secure=context.settings.is_https,
        httponly=True,
        samesite="strict",
    )
    caller = Caller(Actor("user", str(user.id)), user.role, user.id)
    return session_view(caller, user, expires_at=opened.expires_at)


@router.get("")
async def get_session(caller: Own, session: Session, now: Now) -> SessionView:
    """Tell the caller who they are."""
    user = None if caller.user_id is None else await users.get_user(session, caller.user_id)
    until = await find_stepped_up_until(session, caller, now=now)
    return session_view(caller, user, stepped_up_until=until)


@router.delete("", status_code=204)
async def sign_out(
    caller: Own, response: Response, context: Context, session: Session, now: Now
) -> None:
    """End the caller's session; an API key stays what it is."""
    await sessions.close_session(session, caller, now=now)
    response.delete_cookie(
        context.settings.cookie_name,
        path="/",
        secure=context.settings.is_https,
        httponly=True,
        samesite="strict",
    )


async def _verified(address: str, context: Context, body: SignIn, now: datetime) -> users.User:
    context.attempts.check(body.email, address, now)
    # A session of its own: no connection is held while passwords are hashed.
    async with context.sessions() as lookup:
        found = await users.find_password_hash(lookup, body.email)
    user, stored = found if found is not None else (None, None)
    if await context.passwords.verify(stored, body.password.get_secret_value()) and user:
        context.attempts.succeeded(body.email, address)
        return user
    context.attempts.failed(body.email, address, now)
    user_id = None if user is None else user.id

    def failed(count: int, since: datetime) -> Event:
        return SessionFailed(
            by=SYSTEM,
            user_id=user_id,
            reason="bad-credentials",
            count=count,
            since=since,
            address=None if user_id is None else address,
        )

    await context.denials.count(("sign-in", user_id, network_of(address)), failed)
    raise BadCredentials("no user has this e-mail address and this password")
