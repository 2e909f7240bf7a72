"""Approvals: what one person asks for and only a second person makes happen, exactly once.

An approval is bound to the digest of its exact request, which the ledger holds too: a row that
was changed in the database is not carried out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from hmac import compare_digest
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.entry import format_time
from tensorguard.pki.errors import PkiError
from tensorguard.protocol.errors import ProtocolError
from tensorguard.rollouts.errors import RolloutError
from tensorguard.services.errors import Conflict, Invalid, ServiceError, Unready
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import SYSTEM, Actor, Event
from tensorguard.services.evidence.events import (
    ApprovalApproved,
    ApprovalExpired,
    ApprovalFailed,
    ApprovalRejected,
    ApprovalRequested,
)
from tensorguard.services.people.access import Caller
from tensorguard.services.people.approval import JSON as JSON
from tensorguard.services.people.approval import Approval as Approval
from tensorguard.services.people.approval import ApprovalKind as ApprovalKind
from tensorguard.services.people.approval import ApprovalNotFound as ApprovalNotFound
from tensorguard.services.people.approval import ApprovalNotPending as ApprovalNotPending
from tensorguard.services.people.approval import Deciders as Deciders
from tensorguard.services.people.approval import Executor as Executor
from tensorguard.services.people.approval import State as State
from tensorguard.services.people.approval import TooManyApprovals as TooManyApprovals
from tensorguard.services.people.approval import approval_of, request_digest
from tensorguard.services.people.second_factor import require_step_up
from tensorguard.services.people.second_person import find_objection
from tensorguard.store import tables
from tensorguard.store.ids import new_id
from tensorguard.vault.errors import VaultError

LIFETIME: Final = timedelta(minutes=15)
MAX_PENDING: Final = 1000
"""So many requests of one requester wait at a time."""
_AT_ONCE: Final = 500
_TRIES: Final = 3
_CHANGED: Final = "approval-changed"


async def ask(
    session: AsyncSession,
    kind: ApprovalKind,
    request: Mapping[str, JSON],
    *,
    fleet: str | None,
    by: Caller,
    now: datetime,
) -> Approval:
    """Let `request` wait for a second person, for 15 minutes.

    Asking again for the same while it waits changes nothing and returns the same approval.
    Raises: Invalid, TooManyApprovals.
    """
    approval = Approval(
        id=new_id(),
        kind=kind,
        fleet=fleet,
        request=dict(request),
        request_sha256=request_digest(kind, fleet, request),
        state="pending",
        requested_at=now,
        requested_by=by.actor,
        expires_at=now + LIFETIME,
    )
    for _ in range(_TRIES):
        if (waiting := await _find_same(session, approval)) is not None:
            if waiting.expires_at > now:
                return waiting
            await _expire(session, [waiting], now)
        await _check_room(session, by.actor)
        if await _insert(session, approval):
            event = ApprovalRequested(
                by=by.actor,
                fleet=fleet,
                approval_id=approval.id,
                kind=kind,
                request_sha256=approval.request_sha256,
                expires_at=approval.expires_at,
            )
            await ledger.record(session, event, now=now)
            return approval
    raise Conflict("the same is being asked for at this moment", hint="Try again.")


async def decide(
    session: AsyncSession,
    approval_id: UUID,
    *,
    approve: bool,
    reason: str | None,
    by: Caller,
    executors: Mapping[ApprovalKind, Executor],
    now: datetime,
) -> Approval:
    """Approve what waits, which makes it happen in this transaction, or reject it.

    The state of what is returned tells how it ended; the caller commits in every case: `expired`
    if the time was over, `failed` if the executor refused (nothing else was changed then) or if
    the stored request is not the one that was asked for.

    Raises: ApprovalNotFound, ApprovalNotPending, PersonRequired, MayNotDecide, NotASecondPerson,
        SecondFactorMissing, StepUpRequired; Invalid if a rejection gives no reason.
    """
    approval = await _get_locked(session, approval_id)
    if approval.state != "pending":
        raise ApprovalNotPending(f"this approval is {approval.state} already")
    if approval.expires_at <= now:
        (expired,) = await _expire(session, [approval], now)
        return expired
    objection = await find_objection(
        session,
        by=by,
        requested_by=approval.requested_by.id,
        permission=approval.permission,
        now=now,
    )
    if objection is not None:
        raise objection
    await require_step_up(session, by, now=now)
    if not await _is_as_recorded(session, approval):
        changed = "the stored request is not the one that the ledger has recorded"
        return await _fail(session, approval, _CHANGED, changed, by=by.actor, now=now)
    if not approve:
        return await _reject(session, approval, reason, by=by.actor, now=now)
    executor = executors.get(approval.kind)
    if executor is None:
        raise Unready(f"nothing here carries out {approval.kind}")
    deciders = Deciders(requested_by=approval.requested_by, approved_by=by.actor)
    try:
        async with session.begin_nested():
            done = await executor(session, approval.request, deciders, now)
    except (ServiceError, PkiError, ProtocolError, RolloutError, VaultError) as error:
        return await _fail(session, approval, error.code, error.message, by=by.actor, now=now)
    event = ApprovalApproved(**_told(approval, by.actor))
    return await _end(session, approval, "approved", event, result=dict(done), now=now)


async def get_approval(session: AsyncSession, approval_id: UUID, *, now: datetime) -> Approval:
    """Return one approval; one whose time is over is `expired`, whether that is stored or not.

    Raises: ApprovalNotFound.
    """
    table = tables.approvals
    query = sa.select(table).where(table.c.id == approval_id)
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise ApprovalNotFound(f"there is no approval {approval_id}")
    return approval_of(row, now=now)


async def list_approvals(
    session: AsyncSession,
    *,
    now: datetime,
    state: State | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> list[Approval]:
    """Return approvals, the newest first; those whose time is over are `expired`."""
    table = tables.approvals
    query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
    is_over = sa.and_(table.c.state == "pending", table.c.expires_at <= now)
    if state == "expired":
        query = query.where(sa.or_(table.c.state == state, is_over))
    elif state is not None:
        query = query.where(table.c.state == state, ~is_over)
    if before is not None:
        query = query.where(table.c.id < before)
    return [approval_of(row, now=now) for row in await session.execute(query)]


async def expire_approvals(session: AsyncSession, *, now: datetime) -> int:
    """Store as expired, once, what nobody has decided in time; return how many."""
    table = tables.approvals
    query = (
        sa.select(table)
        .where(table.c.state == "pending", table.c.expires_at <= now)
        .order_by(table.c.id)
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    over = [approval_of(row) for row in await session.execute(query)]
    return len(await _expire(session, over, now))


async def _find_same(session: AsyncSession, approval: Approval) -> Approval | None:
    table = tables.approvals
    query = sa.select(table).where(
        table.c.requested_by == approval.requested_by.id,
        table.c.request_sha256 == approval.request_sha256,
        table.c.state == "pending",
    )
    row = (await session.execute(query.with_for_update())).one_or_none()
    return None if row is None else approval_of(row)


async def _check_room(session: AsyncSession, by: Actor) -> None:
    table = tables.approvals
    query = sa.select(sa.func.count()).where(
        table.c.requested_by == by.id, table.c.state == "pending"
    )
    if (await session.execute(query)).scalar_one() >= MAX_PENDING:
        raise TooManyApprovals(f"{MAX_PENDING} requests wait for a second person already")


async def _insert(session: AsyncSession, approval: Approval) -> bool:
    table = tables.approvals
    statement = insert(table).values(
        id=approval.id,
        kind=approval.kind,
        fleet=approval.fleet,
        request=approval.request,
        request_sha256=approval.request_sha256,
        state=approval.state,
        requested_at=approval.requested_at,
        requested_by=approval.requested_by.id,
        requested_by_kind=approval.requested_by.kind,
        expires_at=approval.expires_at,
    )
    done = await session.execute(statement.on_conflict_do_nothing().returning(table.c.id))
    return done.first() is not None


async def _get_locked(session: AsyncSession, approval_id: UUID) -> Approval:
    table = tables.approvals
    query = sa.select(table).where(table.c.id == approval_id).with_for_update()
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise ApprovalNotFound(f"there is no approval {approval_id}")
    return approval_of(row)


async def _is_as_recorded(session: AsyncSession, approval: Approval) -> bool:
    """Compare what is stored with its digest, and both with the ledger, where nothing changes."""
    try:
        digest = request_digest(approval.kind, approval.fleet, approval.request)
    except Invalid:
        return False
    if not compare_digest(digest, approval.request_sha256):
        return False
    table = tables.ledger_events
    query = sa.select(table.c.entry).where(
        table.c.subject_id == str(approval.id), table.c.type == ApprovalRequested.TYPE
    )
    entries = [json.loads(bytes(entry)) for (entry,) in await session.execute(query)]
    by = approval.requested_by
    return bool(entries) and all(
        compare_digest(entry["details"]["request_sha256"], digest.hex())
        and entry["actor"] == {"kind": by.kind, "id": by.id}
        and entry["details"]["expires_at"] == format_time(approval.expires_at)
        for entry in entries
    )


async def _expire(session: AsyncSession, over: Sequence[Approval], now: datetime) -> list[Approval]:
    ended = []
    for approval in over:
        event = ApprovalExpired(**_told(approval, SYSTEM))
        ended.append(await _end(session, approval, "expired", event, now=now))
    return ended


async def _reject(
    session: AsyncSession, approval: Approval, reason: str | None, *, by: Actor, now: datetime
) -> Approval:
    if not reason or not reason.strip():
        raise Invalid("a rejection needs a reason")
    event = ApprovalRejected(**_told(approval, by), reason=reason)
    return await _end(session, approval, "rejected", event, reason=reason, now=now)


async def _fail(
    session: AsyncSession, approval: Approval, code: str, message: str, *, by: Actor, now: datetime
) -> Approval:
    event = ApprovalFailed(**_told(approval, by), reason=code)
    result = {"code": code}
    return await _end(session, approval, "failed", event, reason=message, result=result, now=now)


def _told(approval: Approval, by: Actor) -> dict[str, Any]:
    """Return what every event about the end of an approval says."""
    return {
        "by": by,
        "fleet": approval.fleet,
        "approval_id": approval.id,
        "kind": approval.kind,
        "requested_by": approval.requested_by.id,
    }


async def _end(
    session: AsyncSession,
    approval: Approval,
    state: State,
    event: Event,
    *,
    now: datetime,
    reason: str | None = None,
    result: Mapping[str, Any] | None = None,
) -> Approval:
    """Store how it ended; `decided_by` is nobody where only its time was over."""
    ended = replace(
        approval,
        state=state,
        decided_at=now,
        decided_by=None if state == "expired" else event.by.id,
        reason=reason,
        result=result,
    )
    table = tables.approvals
    names = ("state", "decided_at", "decided_by", "reason", "result")
    values = {name: value for name in names if (value := getattr(ended, name)) is not None}
    await session.execute(sa.update(table).where(table.c.id == approval.id).values(values))
    await ledger.record(session, event, now=now)
    return ended
