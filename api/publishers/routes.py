"""`/api/v1/publishers`: the list, and the end of one.

Registering one takes the root keys, which no service holds: `tensorguard admin publisher register`.
"""

from datetime import datetime
from typing import Annotated

from fastapi import Path

from api.access import Requires
from api.pages import Page
from api.routing import Now, Session, new_router
from api.views import Body, Reason, View
from tensorguard.services import publishers
from tensorguard.services.access import Caller, Permission
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


@router.post("/{kid}/revoke")
async def revoke_publisher(
    caller: Writer, session: Session, kid: KidPath, body: PublisherRevoke, now: Now
) -> PublisherView:
    """End uploads, deployments and grants of what this publisher has signed, at once."""
    return PublisherView.model_validate(
        await publishers.revoke_publisher(
            session, kid, reason=body.reason, by=caller.actor, now=now
        )
    )
