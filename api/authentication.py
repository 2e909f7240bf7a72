"""From a request to its caller: an API key, or a session's cookie from our own pages."""

from datetime import datetime
from urllib.parse import urlsplit

from starlette.requests import Request

from api.access import Requirement
from api.context import ApiContext
from api.errors import Forbidden, ForeignOrigin, Unauthenticated
from tensorguard.services.evidence.event import Event
from tensorguard.services.evidence.events import RequestDenied
from tensorguard.services.people import api_keys, sessions
from tensorguard.services.people.access import Caller
from tensorguard.services.people.second_factor import require_step_up

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


async def admit(
    request: Request, context: ApiContext, requirement: Requirement | None, *, route: str
) -> Caller | None:
    """Return the caller if the route is for them; None on a public route.

    Raises: Unauthenticated, Forbidden, ForeignOrigin, PersonRequired, SecondFactorMissing,
        StepUpRequired.
    """
    if request.method not in _SAFE_METHODS:
        check_origin(request)
    if requirement is None:
        return None
    caller = await find_caller(request, context)
    if caller is None:
        raise Unauthenticated("this route is for people who have signed in and for API keys")
    if not caller.may(requirement.permission):
        permission = str(requirement.permission)

        def denied(count: int, since: datetime) -> Event:
            return RequestDenied(
                by=caller.actor,
                route=f"{request.method} {route}",
                permission=permission,
                count=count,
            )

        await context.denials.count((caller.actor, request.method, route), denied)
        raise Forbidden(f"the role {caller.role} lacks the permission {permission}")
    if requirement.step_up:
        async with context.sessions() as session:
            await require_step_up(session, caller, now=context.clock())
    return caller


async def find_caller(request: Request, context: ApiContext) -> Caller | None:
    """Return whoever the request proves to be, or None if it does not even try.

    Raises: Unauthenticated if what it shows is no longer, or never was, good.
    """
    now = context.clock()
    settings = context.settings
    authorization = request.headers.get("authorization")
    cookie = request.cookies.get(settings.cookie_name)
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        async with context.sessions.begin() as session:
            caller = await api_keys.find_caller(session, key.strip(), now=now)
        if scheme.lower() != "bearer" or caller is None:
            raise Unauthenticated("the API key is unknown, revoked or expired")
        return caller
    if cookie:
        async with context.sessions.begin() as session:
            caller = await sessions.find_caller(
                session, cookie, idle=settings.session_idle, now=now
            )
        if caller is None:
            raise Unauthenticated("the session has ended")
        return caller
    return None


def check_origin(request: Request) -> None:
    """Refuse a change that a browser sends for another site's page.

    Browsers put Origin on every request that is not GET or HEAD; programs do not.

    Raises: ForeignOrigin.
    """
    origin = request.headers.get("origin")
    if origin is not None:
        ours = (request.url.scheme, request.headers.get("host", ""))
        parts = urlsplit(origin)
        if (parts.scheme, parts.netloc) != ours:
            raise ForeignOrigin(f"the request comes from a page of {origin[:200]!r}")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise ForeignOrigin("the request comes from a page of another site")
