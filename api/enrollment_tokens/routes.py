"""`/api/v1/fleets/{fleet}/enrollment-tokens`: what lets devices join."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa

from api.access import Requires
from api.enrollment_tokens.views import NewTokenView, TokenCreate, TokenView
from api.fleets.views import FleetPath
from api.limits import limits
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Context, Now, Session, new_router
from tensorguard.services.enrollment import tokens
from tensorguard.services.errors import FleetNotFound
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.fleets import find_fleet

router = new_router("/api/v1/fleets/{fleet}/enrollment-tokens", "enrollment-tokens")
Reader = Annotated[Caller, Requires(Permission.TOKENS_READ)]
Writer = Annotated[Caller, Requires(Permission.TOKENS_WRITE)]


@router.get("")
async def list_tokens(
    caller: Reader,
    session: Session,
    fleet: FleetPath,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[TokenView]:
    """List a fleet's tokens, also spent and revoked ones, without their secrets."""
    if await find_fleet(session, fleet) is None:
        raise FleetNotFound(f"there is no fleet {fleet!r}")
    after = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await tokens.list_tokens(session, fleet, after=after, limit=limit + 1)
    return page_of(rows, limit, view=_view, key=lambda row: (str(row.id),))


@router.post("", status_code=201)
@limits(replayable=False)
async def create_token(
    caller: Writer,
    context: Context,
    session: Session,
    fleet: FleetPath,
    body: TokenCreate,
    now: Now,
) -> NewTokenView:
    """Mint a token; the join string in the answer is the only place where it can be read."""
    terms = tokens.TokenTerms(
        ttl=timedelta(seconds=body.ttl_s),
        max_uses=body.max_uses,
        tags=body.tags,
        approval=body.approval,
        cidr=None if body.cidr is None else str(body.cidr),
    )
    made = await tokens.create_token(
        session,
        context.keyring,
        fleet,
        terms,
        device_url=context.settings.device_url,
        by=caller.actor,
        now=now,
    )
    return NewTokenView.model_validate(made)


@router.delete("/{token_id}", status_code=204)
async def revoke_token(
    caller: Writer, session: Session, fleet: FleetPath, token_id: UUID, now: Now
) -> None:
    """Let nobody enrol with a token any more."""
    await tokens.revoke_token(session, token_id, fleet=fleet, by=caller.actor, now=now)


def _view(row: sa.Row[Any]) -> TokenView:
    values = dict(row._mapping)
    cidr = values.pop("cidr")
    return TokenView(**values, cidr=None if cidr is None else str(cidr))
