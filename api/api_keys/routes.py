"""`/api/v1/api-keys`: how programs prove who they are."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from api.access import Requires
from api.api_keys.views import ApiKeyCreate, ApiKeyView, NewApiKeyView
from api.limits import limits
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Now, Session, new_router
from tensorguard.services.people import api_keys
from tensorguard.services.people.access import Caller, Permission

router = new_router("/api/v1/api-keys", "api-keys")
Admin = Annotated[Caller, Requires(Permission.API_KEYS_ADMIN)]


@router.get("")
async def list_api_keys(
    caller: Admin, session: Session, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[ApiKeyView]:
    """List keys, also revoked ones, in the order in which they were made."""
    after = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await api_keys.list_api_keys(session, after=after, limit=limit + 1)
    return page_of(rows, limit, view=ApiKeyView.model_validate, key=lambda key: (str(key.id),))


@router.post("", status_code=201)
@limits(replayable=False)
async def create_api_key(
    caller: Admin, session: Session, body: ApiKeyCreate, now: Now
) -> NewApiKeyView:
    """Make a key; the answer is the only place where it can be read."""
    expires_at = None if body.ttl_s is None else now + timedelta(seconds=body.ttl_s)
    made = await api_keys.create_api_key(
        session, name=body.name, role=body.role, by=caller.actor, now=now, expires_at=expires_at
    )
    return NewApiKeyView(id=made.id, key=made.key, expires_at=expires_at)


@router.delete("/{key_id}", status_code=204)
async def revoke_api_key(caller: Admin, session: Session, key_id: UUID, now: Now) -> None:
    """End a key for good."""
    await api_keys.revoke_api_key(session, key_id, by=caller.actor, now=now)
