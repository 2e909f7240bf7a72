"""Approvals as their viewer sees them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.views import Body, Reason, View
from tensorguard.services.people.access import Caller
from tensorguard.services.people.approval import Approval, ApprovalKind, State
from tensorguard.services.people.second_person import find_objection


class Reject(Body):
    """Why it must not happen."""

    reason: Reason


class ApprovalView(View):
    """What was asked for, and what became of it; `why_not` says why the viewer may not decide."""

    id: UUID
    kind: ApprovalKind
    fleet: str | None
    request: dict[str, Any]
    request_sha256: str
    state: State
    requested_at: datetime
    requested_by: str
    expires_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    reason: str | None
    result: dict[str, Any] | None
    yours: bool
    may_decide: bool
    why_not: str | None


async def approval_view(
    session: AsyncSession,
    approval: Approval,
    viewer: Caller,
    *,
    now: datetime,
    behind: dict[str, set[str]] | None = None,
) -> ApprovalView:
    """Return an approval as the viewer sees it; stepping up is no part of `may_decide`.

    `behind` is what `find_objection` remembers, for many approvals.
    """
    why_not = await _why_not(session, approval, viewer, now, behind)
    return ApprovalView(
        id=approval.id,
        kind=approval.kind,
        fleet=approval.fleet,
        request=dict(approval.request),
        request_sha256=approval.request_sha256.hex(),
        state=approval.state,
        requested_at=approval.requested_at,
        requested_by=approval.requested_by.id,
        expires_at=approval.expires_at,
        decided_at=approval.decided_at,
        decided_by=approval.decided_by,
        reason=approval.reason,
        result=None if approval.result is None else dict(approval.result),
        yours=approval.requested_by == viewer.actor,
        may_decide=why_not is None,
        why_not=why_not,
    )


async def _why_not(
    session: AsyncSession,
    approval: Approval,
    viewer: Caller,
    now: datetime,
    behind: dict[str, set[str]] | None,
) -> str | None:
    if approval.state != "pending":
        return f"this is {approval.state} already"
    objection = await find_objection(
        session,
        by=viewer,
        requested_by=approval.requested_by.id,
        permission=approval.permission,
        now=now,
        behind=behind,
    )
    return None if objection is None else objection.message
