"""Who is asking, and whether the route is for them. A route that names neither is refused."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from starlette.routing import BaseRoute

from tensorguard.services.people.access import Caller, Permission


@dataclass(frozen=True)
class Requirement:
    """Hands an endpoint its caller, who has `permission`: the route has checked that before.

    With `step_up` it is a person, whose session has shown a code of the second factor just now.
    """

    permission: Permission
    step_up: bool = False

    async def __call__(self, request: Request) -> Caller:
        caller = request.state.caller
        # Again, in case a router does without our Route class.
        if not isinstance(caller, Caller) or not caller.may(self.permission):
            raise RuntimeError(f"{request.url.path} was reached without {self.permission}")
        return caller


def Requires(permission: Permission, *, step_up: bool = False) -> Any:
    """Declare a route's permission: `caller: Annotated[Caller, Requires(Permission.X)]`."""
    return Depends(Requirement(permission, step_up))


async def public() -> None:
    """Mark a route that anybody may use: `dependencies=[PUBLIC]`."""


PUBLIC = Depends(public)


class UndeclaredRoute(Exception):
    """A route names neither a permission nor that it is public."""


def requirement_of(dependant: Dependant, path: str) -> Requirement | None:
    """Return what a route requires; None if it is public.

    Raises: UndeclaredRoute if it says nothing, or several things.
    """
    found = {call for call in _calls(dependant) if isinstance(call, Requirement) or call is public}
    if len(found) != 1:
        raise UndeclaredRoute(f"{path} must name one permission, or be PUBLIC; it names {found}")
    (only,) = found
    return only if isinstance(only, Requirement) else None


def _calls(dependant: Dependant) -> Iterator[Any]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)


def walk_routes(routes: list[BaseRoute]) -> Iterator[BaseRoute]:
    """Yield every route of an application, those of included routers too."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from walk_routes(included.routes)
        else:
            yield route
