"""`/api/v1/publishers`: who may sign packages. To add, change or end one takes a second person.

Agents hear of it with the next trust bundle, which takes the root keys that no service holds: its
draft is at `/api/v1/trust/draft`. On the platform's machine `tensorguard admin publisher` does both
at once.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Path

from api.access import Requires
from api.approvals.views import ApprovalView, approval_view
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.publishers.views import (
    AgentBeliefView,
    PublisherChange,
    PublisherRegister,
    PublisherRevoke,
    PublisherView,
    publisher_view,
)
from api.routing import Now, Session, new_router
from tensorguard.services.deployments.release_errors import PublisherIsRevoked
from tensorguard.services.people import approvals
from tensorguard.services.people.access import Caller, Permission
from tensorguard.services.people.approvals import ApprovalKind
from tensorguard.services.trust import publishers
from tensorguard.services.trust.publisher_overview import (
    get_publisher_overview,
    list_publisher_overviews,
)
from tensorguard.store.publishers import list_beliefs

router = new_router("/api/v1/publishers", "publishers")
Reader = Annotated[Caller, Requires(Permission.PUBLISHERS_READ)]
AgentsReader = Annotated[Caller, Requires(Permission.AGENTS_READ)]
Writer = Annotated[Caller, Requires(Permission.PUBLISHERS_WRITE)]
KidPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


@router.get("")
async def list_publishers(caller: Reader, session: Session, now: Now) -> Page[PublisherView]:
    """List every publisher in the order of registration; they are few."""
    found = await list_publisher_overviews(session, now=now)
    return Page(items=[publisher_view(one) for one in found], next_cursor=None)


@router.get("/{kid}")
async def get_publisher(caller: Reader, session: Session, kid: KidPath, now: Now) -> PublisherView:
    """Return one publisher. What it has signed: `/api/v1/packages?publisher=`."""
    return publisher_view(await get_publisher_overview(session, kid, now=now))


@router.get("/{kid}/agents")
async def list_publisher_agents(
    caller: AgentsReader,
    session: Session,
    kid: KidPath,
    told: bool | None = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[AgentBeliefView]:
    """List active agents by id, and whether they have the bundle that tells of this publisher.

    `told` asks for those alone who have it, or who have not.
    """
    publisher = await publishers.get_publisher(session, kid)
    after = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await list_beliefs(session, publisher.told_in, told=told, after=after, limit=limit + 1)
    return page_of(rows, limit, view=AgentBeliefView.model_validate, key=lambda one: (str(one.id),))


@router.post("", status_code=202)
async def register_publisher(
    caller: Writer, session: Session, body: PublisherRegister, now: Now
) -> ApprovalView:
    """Ask for a key to be let sign packages; a second person has to approve it.

    With `succeeds` it takes the place of another, which ends some time after it has begun.
    """
    await publishers.check_new_publisher(session, **body.arguments(), now=now)
    return await _ask(session, ApprovalKind.REGISTER_PUBLISHER, body, caller, now)


@router.post("/{kid}/change", status_code=202)
async def change_publisher(
    caller: Writer, session: Session, kid: KidPath, body: PublisherChange, now: Now
) -> ApprovalView:
    """Ask for a publisher to sign other names, or until another time.

    It happens when a second person approves it; deployments that it leaves without a publisher are
    paused then.
    """
    await publishers.check_change(session, kid, names=body.names, not_after=body.not_after, now=now)
    return await _ask(session, ApprovalKind.CHANGE_PUBLISHER, body, caller, now, kid=kid)


@router.post("/{kid}/revoke", status_code=202)
async def revoke_publisher(
    caller: Writer, session: Session, kid: KidPath, body: PublisherRevoke, now: Now
) -> ApprovalView:
    """Ask for the end of uploads, deployments and grants of what this publisher has signed.

    It happens at once when a second person approves it; deployments that run are paused then.
    """
    publisher = await publishers.get_publisher(session, kid)
    if publisher.revoked_at is not None:
        raise PublisherIsRevoked(f"the publisher {kid} is revoked already")
    return await _ask(session, ApprovalKind.REVOKE_PUBLISHER, body, caller, now, kid=kid)


async def _ask(
    session: Session,
    kind: ApprovalKind,
    body: PublisherRegister | PublisherChange | PublisherRevoke,
    caller: Caller,
    now: Now,
    **subject: str,
) -> ApprovalView:
    # What is not given is not in the request: the second person reads what was asked for.
    request: dict[str, Any] = body.model_dump(mode="json", exclude_none=True)
    approval = await approvals.ask(session, kind, subject | request, fleet=None, by=caller, now=now)
    return await approval_view(session, approval, caller, now=now)
