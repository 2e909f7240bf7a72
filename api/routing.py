"""A route of ours: permission first, then limits, then one transaction around the endpoint.

Endpoints translate, use cases decide and never commit: the request does, after its answer was
rendered, so that an answer that was sent is an answer that was committed.
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncSession

from api import access, authentication, idempotency, limits
from api.context import ApiContext, context_of
from api.errors import RequestTimedOut
from api.problems import PROBLEM_REF, problem_response

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """Denied by default: a route that declares neither a permission nor PUBLIC cannot be made."""

    def get_route_handler(self) -> Handler:
        endpoint = super().get_route_handler()
        requirement = access.requirement_of(self.dependant, self.path)
        cost = limits.limits_of(self.endpoint)

        async def serve(request: Request) -> Response:
            context = context_of(request.app)
            request.state.context = context
            request.state.caller = await authentication.admit(
                request, context, requirement, route=self.path
            )
            if self.body_field is not None:
                limits.check_json(request)
            limited = limits.limited(request, cost.max_body_bytes)
            async with context.sessions() as session:
                session.info["route"] = self.path
                limited.state.session = session
                if cost.streamed:
                    response = await endpoint(limited)
                else:
                    response = await idempotency.once(
                        limited, session, endpoint, replayable=cost.replayable, now=context.clock()
                    )
                await session.commit()
            return response

        async def serve_in_time(request: Request) -> Response:
            try:
                async with asyncio.timeout(cost.timeout_s):
                    return await serve(request)
            except TimeoutError:
                return problem_response(
                    RequestTimedOut(f"the request took longer than {cost.timeout_s:g} s")
                )
            except Exception as error:
                return problem_response(error)

        return serve_in_time


def new_router(prefix: str, tag: str) -> APIRouter:
    """Return a router for one resource; `prefix` is the whole path, as in `/api/v1/fleets`."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=Route, responses={"default": PROBLEM})


PROBLEM = {
    "description": "Any error, as RFC 9457 problem details.",
    "content": {"application/problem+json": {"schema": {"$ref": PROBLEM_REF}}},
}


async def _context(request: Request) -> ApiContext:
    context = request.state.context
    assert isinstance(context, ApiContext)
    return context


async def _session(request: Request) -> AsyncSession:
    session = request.state.session
    assert isinstance(session, AsyncSession)
    return session


async def _now(request: Request) -> datetime:
    return (await _context(request)).clock()


# Each `async`: FastAPI runs what is not in a thread, which costs more than these do.
Context = Annotated[ApiContext, Depends(_context)]
Session = Annotated[AsyncSession, Depends(_session)]
"""The request's transaction: committed when the endpoint returns, rolled back when it raises."""
Now = Annotated[datetime, Depends(_now)]
