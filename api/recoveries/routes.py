"""`/api/v1/recoveries`: who asks to come back, and the operator's decision."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query

from api.access import Requires
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.recoveries.views import RecoveryApprove, RecoveryReject, RecoveryState, RecoveryView
from api.routing import Now, Session, new_router
from tensorguard.services.certificates.recovery import decide_recovery, get_recovery
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.recoveries import list_recoveries as list_recovery_rows

router = new_router("/api/v1/recoveries", "recoveries")
Reader = Annotated[Caller, Requires(Permission.AGENTS_READ)]
Admitter = Annotated[Caller, Requires(Permission.AGENTS_ADMIT)]


@router.get("")
async def list_recoveries(
    caller: Reader,
    session: Session,
    now: Now,
    state: Annotated[RecoveryState | None, Query()] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[RecoveryView]:
    """List recoveries, the newest first."""
    after = decode_cursor(cursor, _parse_place)
    rows = await list_recovery_rows(session, state=state, after=after, limit=limit + 1, now=now)
    return page_of(
        rows,
        limit,
        view=lambda row: RecoveryView.model_validate(dict(row)),
        key=lambda row: (row["requested_at"].isoformat(), str(row["id"])),
    )


@router.post("/{recovery_id}/approve")
async def approve_recovery(
    caller: Admitter, session: Session, recovery_id: UUID, body: RecoveryApprove, now: Now
) -> RecoveryView:
    """Let the agent back in: it gets its certificate when it asks the next time."""
    await decide_recovery(session, recovery_id, approve=True, by=caller.actor, now=now)
    return RecoveryView.model_validate(dict(await get_recovery(session, recovery_id, now=now)))


@router.post("/{recovery_id}/reject")
async def reject_recovery(
    caller: Admitter, session: Session, recovery_id: UUID, body: RecoveryReject, now: Now
) -> RecoveryView:
    """Keep the agent out; a day later it may ask again."""
    await decide_recovery(
        session, recovery_id, approve=False, reason=body.reason, by=caller.actor, now=now
    )
    return RecoveryView.model_validate(dict(await get_recovery(session, recovery_id, now=now)))


def _parse_place(values: list[Any]) -> tuple[datetime, UUID]:
    at = datetime.fromisoformat(values[0])
    if at.tzinfo is None:
        raise ValueError("not an aware time")
    return at, UUID(values[1])
