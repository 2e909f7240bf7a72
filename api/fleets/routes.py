"""`/api/v1/fleets`: groups of agents that share topics, tokens and configuration."""

from typing import Annotated

from fastapi import Header, Response
from sqlalchemy.ext.asyncio import AsyncSession

from api.access import Requires
from api.approvals.views import ApprovalView, approval_view
from api.etags import require_match, revision_etag
from api.fleets.views import FleetCreate, FleetPath, FleetUpdate, FleetView
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Context, Now, Session, new_router
from tensorguard.services.deployments.approving import require_approval
from tensorguard.services.errors import FleetNotFound
from tensorguard.services.fleets import fleets
from tensorguard.services.people import approvals
from tensorguard.services.people.access import Caller, Permission
from tensorguard.services.people.approval import ApprovalKind
from tensorguard.store.fleets import find_fleet, lock_config
from tensorguard.store.fleets import list_fleets as list_summaries

router = new_router("/api/v1/fleets", "fleets")
Reader = Annotated[Caller, Requires(Permission.FLEETS_READ)]
Writer = Annotated[Caller, Requires(Permission.FLEETS_WRITE)]


@router.get("")
async def list_fleets(
    caller: Reader, session: Session, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[FleetView]:
    """List fleets in the order of their slugs."""
    after = decode_cursor(cursor, lambda values: str(values[0]))
    rows = await list_summaries(session, after=after, limit=limit + 1)
    return page_of(rows, limit, view=FleetView.model_validate, key=lambda fleet: (fleet.slug,))


@router.post("", status_code=201)
async def create_fleet(
    caller: Writer,
    context: Context,
    session: Session,
    response: Response,
    body: FleetCreate,
    now: Now,
) -> FleetView:
    """Make a fleet."""
    await fleets.create_fleet(
        session,
        context.keyring,
        slug=body.slug,
        name=body.name,
        by=caller.actor,
        now=now,
        heartbeat_interval_s=body.heartbeat_interval_s,
    )
    response.headers["Location"] = f"/api/v1/fleets/{body.slug}"
    return await _view(session, body.slug, response)


@router.get("/{fleet}")
async def get_fleet(
    caller: Reader, session: Session, response: Response, fleet: FleetPath
) -> FleetView:
    """Return one fleet."""
    return await _view(session, fleet, response)


@router.patch("/{fleet}")
async def update_fleet(
    caller: Writer,
    context: Context,
    session: Session,
    response: Response,
    fleet: FleetPath,
    body: FleetUpdate,
    now: Now,
    if_match: Annotated[str | None, Header()] = None,
) -> FleetView:
    """Change a fleet's configuration; its agents follow within a heartbeat."""
    revision = await lock_config(session, fleet)
    if revision is None:
        raise FleetNotFound(f"there is no fleet {fleet!r}")
    require_match(if_match, revision_etag(revision))
    await fleets.set_config(
        session,
        context.keyring,
        fleet,
        heartbeat_interval_s=body.heartbeat_interval_s,
        by=caller.actor,
        now=now,
    )
    return await _view(session, fleet, response)


@router.post("/{fleet}/require-approval")
async def require_deployment_approval(
    caller: Writer, session: Session, response: Response, fleet: FleetPath, now: Now
) -> FleetView:
    """Have every deployment to the fleet take a second person from now on."""
    await require_approval(session, fleet, required=True, by=caller.actor, now=now)
    return await _view(session, fleet, response)


@router.post("/{fleet}/waive-approval", status_code=202)
async def waive_deployment_approval(
    caller: Writer, session: Session, fleet: FleetPath, now: Now
) -> ApprovalView:
    """Ask that deployments to the fleet take one person only; a second one has to agree to it."""
    if await find_fleet(session, fleet) is None:
        raise FleetNotFound(f"there is no fleet {fleet!r}")
    approval = await approvals.ask(
        session, ApprovalKind.WAIVE_APPROVAL, {"fleet": fleet}, fleet=fleet, by=caller, now=now
    )
    return await approval_view(session, approval, caller, now=now)


async def _view(session: AsyncSession, slug: str, response: Response) -> FleetView:
    fleet = await find_fleet(session, slug)
    if fleet is None:
        raise FleetNotFound(f"there is no fleet {slug!r}")
    response.headers["ETag"] = revision_etag(fleet.config_revision)
    return FleetView.model_validate(fleet)
