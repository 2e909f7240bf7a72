"""`/api/v1/fleets/{fleet}/revoke` and its receipts: the kill switch for a whole fleet."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from api.access import Requires
from api.approvals.views import ApprovalView, approval_view
from api.fleets.views import FleetPath
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Now, Session, new_router
from api.views import Body, Reason, View
from tensorguard.services.people import approvals
from tensorguard.services.people.access import Caller, Permission
from tensorguard.services.people.approval import ApprovalKind
from tensorguard.services.revocation.fleet_revocations import (
    check_fleet,
    get_fleet_receipt,
    list_fleet_receipts,
)

router = new_router("/api/v1/fleets", "fleets")
Reader = Annotated[Caller, Requires(Permission.AGENTS_READ)]
Revoker = Annotated[Caller, Requires(Permission.AGENTS_REVOKE, step_up=True)]


class FleetRevoke(Body):
    """Why the whole fleet has to go: stands in the ledger for ever."""

    reason: Reason


class FleetRevocationView(View):
    """A fleet's revocation; `partial` while `waiting_for` names fronts that have not confirmed it.

    `took_ms` is until the last front had denied the last agent, and null before the first has.
    """

    id: UUID
    fleet: str
    reason: str
    agents: int
    revoked_at: datetime
    revoked_by: str
    approved_by: str | None
    denied_at_every_front: bool
    waiting_for: list[str]
    not_answering: list[str]
    disconnected: int
    took_ms: int | None
    state: Literal["complete", "partial"]


@router.post("/{fleet}/revoke", status_code=202)
async def revoke_fleet(
    caller: Revoker, session: Session, fleet: FleetPath, body: FleetRevoke, now: Now
) -> ApprovalView:
    """Ask for the end of every agent of the fleet; a second person has to approve it.

    Then all are disconnected, refused and cannot come back, and the fleet's tokens are revoked.
    """
    await check_fleet(session, fleet)
    approval = await approvals.ask(
        session,
        ApprovalKind.REVOKE_FLEET,
        {"fleet": fleet, "reason": body.reason},
        fleet=fleet,
        by=caller,
        now=now,
    )
    return await approval_view(session, approval, caller, now=now)


@router.get("/{fleet}/revocations")
async def list_revocations(
    caller: Reader,
    session: Session,
    fleet: FleetPath,
    now: Now,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[FleetRevocationView]:
    """List the fleet's revocations, the newest first, with what the fronts have done."""
    before = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await list_fleet_receipts(session, fleet, now=now, before=before, limit=limit + 1)
    return page_of(
        rows, limit, view=FleetRevocationView.model_validate, key=lambda row: (str(row.id),)
    )


@router.get("/{fleet}/revocations/{revocation_id}")
async def get_revocation(
    caller: Reader, session: Session, fleet: FleetPath, revocation_id: UUID, now: Now
) -> FleetRevocationView:
    """Return the receipt of one revocation of the fleet."""
    receipt = await get_fleet_receipt(session, fleet, revocation_id, now=now)
    return FleetRevocationView.model_validate(receipt)
