"""`/api/v1/approvals`: what waits for a second person, and what became of it."""

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import Query, Response
from sqlalchemy.ext.asyncio import AsyncSession

from api.access import Requires
from api.approvals.actions import executors_of
from api.approvals.views import ApprovalView, Reject, approval_view
from api.context import ApiContext
from api.pages import DEFAULT_LIMIT, Cursor, Page, decode_cursor, encode_cursor
from api.problems import problem_response
from api.routing import Context, Now, Session, new_router
from tensorguard.services.people import approvals
from tensorguard.services.people.access import Caller, Permission
from tensorguard.services.people.approval import ApprovalNotPending, State

router = new_router("/api/v1/approvals", "approvals")
Reader = Annotated[Caller, Requires(Permission.APPROVALS_READ)]
Decider = Annotated[Caller, Requires(Permission.APPROVALS_DECIDE, step_up=True)]

MAX_LIMIT: Final = 100  # each with its whole request


@router.get("")
async def list_approvals(
    caller: Reader,
    session: Session,
    now: Now,
    state: Annotated[State | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[ApprovalView]:
    """List approvals, the newest first."""
    before = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await approvals.list_approvals(
        session, now=now, state=state, before=before, limit=limit + 1
    )
    shown = rows[:limit]
    behind: dict[str, set[str]] = {}
    return Page(
        items=[await approval_view(session, row, caller, now=now, behind=behind) for row in shown],
        next_cursor=encode_cursor(str(shown[-1].id)) if len(rows) > limit else None,
    )


@router.get("/{approval_id}")
async def get_approval(
    caller: Reader, session: Session, approval_id: UUID, now: Now
) -> ApprovalView:
    """Return one approval."""
    approval = await approvals.get_approval(session, approval_id, now=now)
    return await approval_view(session, approval, caller, now=now)


@router.post("/{approval_id}/approve", response_model=ApprovalView)
async def approve(
    caller: Decider, context: Context, session: Session, approval_id: UUID, now: Now
) -> ApprovalView | Response:
    """Make it happen, as a second person; `failed` in the answer says that it could not.

    Takes a session that has shown a code of the second factor in the last ten minutes.
    """
    return await _decided(context, session, caller, approval_id, None, now)


@router.post("/{approval_id}/reject", response_model=ApprovalView)
async def reject(
    caller: Decider, context: Context, session: Session, approval_id: UUID, body: Reject, now: Now
) -> ApprovalView | Response:
    """Let it not happen, as a second person."""
    return await _decided(context, session, caller, approval_id, body.reason, now)


async def _decided(
    context: ApiContext,
    session: AsyncSession,
    caller: Caller,
    approval_id: UUID,
    rejected_because: str | None,
    now: datetime,
) -> ApprovalView | Response:
    approval = await approvals.decide(
        session,
        approval_id,
        approve=rejected_because is None,
        reason=rejected_because,
        by=caller,
        executors=executors_of(context),
        now=now,
    )
    if approval.state == "expired":
        # Answered and not raised: that it has expired is stored.
        return problem_response(ApprovalNotPending("nobody has decided within 15 minutes"))
    return await approval_view(session, approval, caller, now=now)
