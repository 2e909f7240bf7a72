"""`/api/v1/publishers`: who may sign packages. To add or end one takes a second person.

Agents hear of it with the next trust bundle, which takes the root keys that no service holds; on
the platform's machine `tensorguard admin publisher` does both at once.
"""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path
from pydantic import AwareDatetime, Field

from api.access import Requires
from api.approvals.views import ApprovalView, approval_view
from api.pages import Page
from api.routing import Now, Session, new_router
from api.views import Body, Line, Reason, View
from tensorguard.services.deployments.release_errors import PublisherIsRevoked
from tensorguard.services.people import approvals
from tensorguard.services.people.access import Caller, Permission
from tensorguard.services.people.approvals import ApprovalKind
from tensorguard.services.trust import publishers
from tensorguard.store.packages import list_publishers as list_publisher_rows

router = new_router("/api/v1/publishers", "publishers")
Reader = Annotated[Caller, Requires(Permission.PUBLISHERS_READ)]
Writer = Annotated[Caller, Requires(Permission.PUBLISHERS_WRITE)]
KidPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


class PublisherView(View):
    """A publisher: `kid` is the SHA-256 of its public key."""

    kid: str
    name: str
    alg: str
    names: list[str]
    not_after: datetime
    created_at: datetime
    created_by: str
    revoked_at: datetime | None


class PublisherRegister(Body):
    """A new publisher: an Ed25519 public key (PEM), and the package names it may sign."""

    name: Line
    public_pem: Annotated[str, Field(max_length=1000, pattern=r"^[\n\r -~]*$")]
    names: Annotated[list[Line], Field(min_length=1, max_length=publishers.MAX_NAMES)]
    not_after: AwareDatetime


class PublisherRevoke(Body):
    """Why the publisher's signature counts no more."""

    reason: Reason


@router.get("")
async def list_publishers(caller: Reader, session: Session) -> Page[PublisherView]:
    """List every publisher in the order of registration; they are few."""
    rows = await list_publisher_rows(session)
    return Page(items=[PublisherView.model_validate(row) for row in rows], next_cursor=None)


@router.get("/{kid}")
async def get_publisher(caller: Reader, session: Session, kid: KidPath) -> PublisherView:
    """Return one publisher."""
    return PublisherView.model_validate(await publishers.get_publisher(session, kid))


@router.post("", status_code=202)
async def register_publisher(
    caller: Writer, session: Session, body: PublisherRegister, now: Now
) -> ApprovalView:
    """Ask for a key to be let sign packages; a second person has to approve it."""
    not_after = body.not_after.astimezone(UTC)
    await publishers.check_new_publisher(
        session,
        name=body.name,
        public_pem=body.public_pem,
        names=body.names,
        not_after=not_after,
        now=now,
    )
    request = {**body.model_dump(), "not_after": not_after.isoformat()}
    approval = await approvals.ask(
        session, ApprovalKind.REGISTER_PUBLISHER, request, fleet=None, by=caller, now=now
    )
    return await approval_view(session, approval, caller, now=now)


@router.post("/{kid}/revoke", status_code=202)
async def revoke_publisher(
    caller: Writer, session: Session, kid: KidPath, body: PublisherRevoke, now: Now
) -> ApprovalView:
    """Ask for the end of uploads, deployments and grants of what this publisher has signed.

    It happens at once when a second person approves it.
    """
    publisher = await publishers.get_publisher(session, kid)
    if publisher.revoked_at is not None:
        raise PublisherIsRevoked(f"the publisher {kid} is revoked already")
    approval = await approvals.ask(
        session,
        ApprovalKind.REVOKE_PUBLISHER,
        {"kid": kid, "reason": body.reason},
        fleet=None,
        by=caller,
        now=now,
    )
    return await approval_view(session, approval, caller, now=now)
