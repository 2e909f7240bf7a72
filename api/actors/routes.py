"""`/api/v1/actors`: whether an id that stands in an answer is a user's or an API key's."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query

from api.access import Requires
from api.routing import Session, new_router
from api.views import View
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.names import find_names

router = new_router("/api/v1/actors", "actors")
Reader = Annotated[Caller, Requires(Permission.SESSION_OWN)]
Ids = Annotated[list[UUID], Query(alias="id", min_length=1, max_length=100)]


class ActorView(View):
    """An account; the name is null for whoever may not read the ledger."""

    id: UUID
    kind: Literal["user", "api-key"]
    name: str | None


@router.get("")
async def list_actors(caller: Reader, session: Session, ids: Ids) -> list[ActorView]:
    """Tell whose these ids are; what is no account is left out."""
    kinds: tuple[Literal["user", "api-key"], ...] = ("user", "api-key")
    names = await find_names(session, [(kind, str(id)) for kind in kinds for id in ids])
    # As in the ledger: whoever may read it may know who acted.
    is_named = caller.may(Permission.LEDGER_READ)
    return [
        ActorView(id=id, kind=kind, name=names[kind, str(id)] if is_named else None)
        for id in dict.fromkeys(ids)
        for kind in kinds
        if (kind, str(id)) in names
    ]
