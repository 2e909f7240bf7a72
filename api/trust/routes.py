"""`/api/v1/trust`: what agents believe. A new bundle takes root keys, and a second person."""

from typing import Annotated, Any

import msgspec
from fastapi import Response

from api.access import Requires
from api.approvals.views import ApprovalView, approval_view
from api.limits import KIB, limits
from api.routing import Now, Session, new_router
from api.trust.views import BundlePublish, TrustView
from tensorguard.pki.changes import describe_changes
from tensorguard.services.people import approvals
from tensorguard.services.people.access import Caller, Permission
from tensorguard.services.people.approvals import ApprovalKind
from tensorguard.services.trust.trust import draft_next
from tensorguard.services.trust.trust_overview import get_trust_overview
from tensorguard.services.trust.trust_publishing import check_bundle

router = new_router("/api/v1/trust", "trust")
Reader = Annotated[Caller, Requires(Permission.TRUST_READ)]
Writer = Annotated[Caller, Requires(Permission.TRUST_WRITE)]
_DRAFT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"schema": {"type": "object"}}}}
}


@router.get("")
async def get_trust(caller: Reader, session: Session, now: Now) -> TrustView:
    """Return the newest trust bundle, the CAs, and which bundle agents believe."""
    return TrustView.model_validate(await get_trust_overview(session, now=now))


@router.get("/draft", response_class=Response, responses=_DRAFT)
async def get_draft(caller: Reader, session: Session, now: Now) -> Response:
    """Return the next trust bundle, of what the platform says now, as a file for root keys to sign.

    `tensorguard trust sign FILE --key root-….key` signs it; its `envelope` is what POST takes then.
    """
    draft = await draft_next(session, now=now)
    name = f"trust-bundle-{draft.following.version}.json"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
    }
    return Response(draft.to_bytes(), media_type="application/json", headers=headers)


@router.post("/bundles", status_code=202)
@limits(max_body_bytes=768 * KIB)
async def publish_bundle(
    caller: Writer, session: Session, body: BundlePublish, now: Now
) -> ApprovalView:
    """Ask for a signed trust bundle to be published; a second person has to approve it.

    It is checked now, and once more then: signatures, version, and that it says what is so.
    """
    envelope: dict[str, Any] = body.envelope.model_dump()
    current, store = await check_bundle(session, msgspec.json.encode(envelope), now=now)
    request: dict[str, Any] = {
        "version": store.version,
        "changes": describe_changes(current.bundle, store.bundle),
        "envelope": envelope,
    }
    approval = await approvals.ask(
        session, ApprovalKind.PUBLISH_TRUST, request, fleet=None, by=caller, now=now
    )
    return await approval_view(session, approval, caller, now=now)
