"""`/api/v1/ledger/private` and `/erasures`: who somebody was, until that is to be forgotten."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, StringConstraints

from api.access import Requires
from api.limits import limits
from api.routing import Context, Now, Session, new_router
from api.views import Body, View
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.ledger_events import PrivateRead
from tensorguard.services.evidence.private_fields import erase_subject, read_private
from tensorguard.services.people.access import Caller, Permission

router = new_router("/api/v1/ledger", "ledger")
# Whoever administers users knows who they are.
Reader = Annotated[Caller, Requires(Permission.USERS_ADMIN)]


class PrivateRequest(Body):
    """The ids of entries."""

    ids: Annotated[list[UUID], Field(min_length=1, max_length=100)]


class PrivateView(View):
    """An entry's private fields; null once they were erased."""

    id: UUID
    fields: dict[str, Any] | None


class ErasureRequest(Body):
    """Whose private fields nobody is to read any more."""

    kind: Annotated[str, StringConstraints(pattern=r"^[a-z-]{1,40}$")]
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/-]{1,200}$")]


class ErasureView(View):
    """How many keys were destroyed: as many entries' private fields nobody reads any more."""

    keys: int


@router.post("/private")
@limits(replayable=False)
async def read_private_fields(
    caller: Reader, context: Context, session: Session, now: Now, body: PrivateRequest
) -> list[PrivateView]:
    """Open the private fields of entries; that somebody did is an entry itself."""
    found = await read_private(session, context.kek, body.ids)
    told = [PrivateRead(by=caller.actor, entry_id=one.id) for one in found if one.fields]
    await ledger.record_many(session, told, now=now)
    return [PrivateView.model_validate(one) for one in found]


@router.post("/erasures")
async def erase(caller: Reader, session: Session, now: Now, body: ErasureRequest) -> ErasureView:
    """Destroy the keys of a subject's private fields; the entries stay as they were hashed."""
    keys = await erase_subject(session, body.kind, body.id, by=caller.actor, now=now)
    return ErasureView(keys=keys)
