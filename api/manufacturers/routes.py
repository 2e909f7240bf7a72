"""`/api/v1/fleets/{fleet}/manufacturer-cas`: makers whose devices enrol by their certificate."""

from typing import Annotated
from uuid import UUID

from api.access import Requires
from api.approvals.views import ApprovalView, approval_view
from api.context import ApiContext
from api.fleets.views import FleetPath
from api.limits import KIB, limits
from api.manufacturers.views import (
    ManufacturerCreate,
    ManufacturerDetail,
    ManufacturerView,
    Proof,
    Whereabouts,
    manufacturer_view,
)
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Context, Now, Session, new_router
from tensorguard.services.enrollment import manufacturers
from tensorguard.services.errors import FleetNotFound
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.fleets import find_fleet

router = new_router("/api/v1/fleets/{fleet}/manufacturer-cas", "manufacturer-cas")
Reader = Annotated[Caller, Requires(Permission.MANUFACTURERS_READ)]
Writer = Annotated[Caller, Requires(Permission.MANUFACTURERS_WRITE)]
# A list of 10,000 serial numbers of 64 characters.
_MAX_CREATE_BYTES = 1024 * KIB


@router.get("")
async def list_manufacturers(
    caller: Reader,
    context: Context,
    session: Session,
    fleet: FleetPath,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[ManufacturerView]:
    """List a fleet's manufacturer CAs in the order of registration, revoked ones too."""
    if await find_fleet(session, fleet) is None:
        raise FleetNotFound(f"there is no fleet {fleet!r}")
    after = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await manufacturers.list_manufacturers(session, fleet, after=after, limit=limit + 1)
    where = _where(context)
    return page_of(
        rows,
        limit,
        view=lambda row: ManufacturerView.model_validate(manufacturer_view(row, where)),
        key=lambda row: (str(row.id),),
    )


@router.post("", status_code=201)
@limits(max_body_bytes=_MAX_CREATE_BYTES)
async def register_manufacturer(
    caller: Writer,
    context: Context,
    session: Session,
    fleet: FleetPath,
    body: ManufacturerCreate,
    now: Now,
) -> ManufacturerDetail:
    """Register a CA; the `challenge` has to be signed with its key within a day."""
    terms = manufacturers.ManufacturerTerms(
        name=body.name,
        approval=body.approval,
        serials=body.serials,
        max_agents=body.max_agents,
        tags=body.tags,
    )
    ca_id = await manufacturers.register_manufacturer(
        session, fleet, body.certificate, terms, by=caller.actor, now=now
    )
    row = await manufacturers.get_manufacturer(session, ca_id, fleet=fleet)
    return manufacturer_view(row, _where(context))


@router.get("/{manufacturer_ca_id}")
async def get_manufacturer(
    caller: Reader,
    context: Context,
    session: Session,
    fleet: FleetPath,
    manufacturer_ca_id: UUID,
) -> ManufacturerDetail:
    """Return one manufacturer CA with its list of serial numbers."""
    row = await manufacturers.get_manufacturer(session, manufacturer_ca_id, fleet=fleet)
    return manufacturer_view(row, _where(context))


@router.post("/{manufacturer_ca_id}/prove", status_code=202)
async def prove_manufacturer(
    caller: Writer,
    session: Session,
    fleet: FleetPath,
    manufacturer_ca_id: UUID,
    body: Proof,
    now: Now,
) -> ApprovalView:
    """Answer the challenge; a second person decides whether the CA's devices may enrol."""
    approval = await manufacturers.prove_manufacturer(
        session, manufacturer_ca_id, body.certificate, fleet=fleet, by=caller, now=now
    )
    return await approval_view(session, approval, caller, now=now)


@router.delete("/{manufacturer_ca_id}", status_code=204)
async def revoke_manufacturer(
    caller: Writer, session: Session, fleet: FleetPath, manufacturer_ca_id: UUID, now: Now
) -> None:
    """Let none of its devices enrol any more; agents that came by it stay."""
    await manufacturers.revoke_manufacturer(
        session, manufacturer_ca_id, fleet=fleet, by=caller.actor, now=now
    )


def _where(context: ApiContext) -> Whereabouts:
    return Whereabouts(context.settings.enroll_url, context.keyring.ca.spki_sha256)
