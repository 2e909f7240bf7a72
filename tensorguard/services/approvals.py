"""Approvals: what one person asks for and only a second person makes happen, exactly once.

An approval is bound to the digest of its exact request, which the ledger holds too: a row that
was changed in the database is not carried out.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hmac import compare_digest
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import rfc8785
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.entry import format_time, is_exact
from tensorguard.pki.errors import PkiError
from tensorguard.protocol.errors import ProtocolError
from tensorguard.services import ledger
from tensorguard.services.access import Caller, Permission
from tensorguard.services.errors import Conflict, Invalid, NotFound, ServiceError
from tensorguard.services.event import SYSTEM, Actor, Event
from tensorguard.services.events import (
    ApprovalApproved,
    ApprovalExpired,
    ApprovalFailed,
    ApprovalRejected,
    ApprovalRequested,
)
from tensorguard.services.second_factor import require_step_up
from tensorguard.services.second_person import find_objection
from tensorguard.store import tables
from tensorguard.store.ids import new_id

LIFETIME: Final = timedelta(minutes=15)
MAX_REQUEST_BYTES: Final = 1024 * 1024
MAX_PENDING: Final = 1000
"""So many requests of one requester wait at a time."""
_AT_ONCE: Final = 500
_TRIES: Final = 3
_CHANGED: Final = "approval-changed"

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | bool | None"
State = Literal["pending", "approved", "rejected", "expired", "failed"]


class ApprovalKind(StrEnum):
    """What takes a second person."""

    REVOKE_FLEET = "fleet.revoke"
    REVOKE_AGENT = "agent.revoke"
    REGISTER_MANUFACTURER = "manufacturer-ca.register"
    REGISTER_PUBLISHER = "publisher.register"
    REVOKE_PUBLISHER = "publisher.revoke"
    PUBLISH_TRUST = "trust-bundle.publish"


PERMISSIONS: Final[Mapping[ApprovalKind, Permission]] = {
    ApprovalKind.REVOKE_FLEET: Permission.AGENTS_REVOKE,
    ApprovalKind.REVOKE_AGENT: Permission.AGENTS_REVOKE,
    ApprovalKind.REGISTER_MANUFACTURER: Permission.MANUFACTURERS_WRITE,
    ApprovalKind.REGISTER_PUBLISHER: Permission.PUBLISHERS_WRITE,
    ApprovalKind.REVOKE_PUBLISHER: Permission.PUBLISHERS_WRITE,
    ApprovalKind.PUBLISH_TRUST: Permission.TRUST_WRITE,
}
"""What the decider's role has to hold, as the requester's did."""


class ApprovalNotFound(NotFound):
    """No approval has this id."""

    code = "approval-not-found"
    hint = "List the approvals."


class ApprovalNotPending(Conflict):
    """It was decided already, or its time is over."""

    code = "approval-not-pending"
    hint = "Read its state; if it is still wanted, ask for it again."


class TooManyApprovals(Conflict):
    """Too much of what this requester asked for is still waiting."""

    code = "too-many-approvals"
    hint = "Let somebody decide what waits, or wait until it expires."


@dataclass(frozen=True, slots=True)
class Deciders:
    """The two persons without whom it would not happen."""

    requested_by: Actor
    approved_by: Actor


Executor = Callable[
    [AsyncSession, Mapping[str, Any], Deciders, datetime], Awaitable[Mapping[str, JSON]]
]
"""Does what was asked for, in the caller's transaction; what it returns is kept with the approval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Something that was asked for, and what became of it."""

    id: UUID
    kind: ApprovalKind
    fleet: str | None
    request: Mapping[str, Any]
    request_sha256: bytes
    state: State
    requested_at: datetime
    requested_by: Actor
    expires_at: datetime
    decided_at: datetime | None = None
    decided_by: str | None = None
    reason: str | None = None
    result: Mapping[str, Any] | None = None

    @property
    def permission(self) -> Permission:
        """What its decider's role has to hold."""
        return PERMISSIONS[self.kind]


def request_digest(kind: ApprovalKind, fleet: str | None, request: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 of the canonical JSON (RFC 8785) of what is asked for.

    Raises: Invalid if it is too large, or JSON cannot hold it exactly.
    """
    document = {"kind": str(kind), "fleet": fleet, "request": dict(request)}
    if not is_exact(document):
        raise Invalid("the request holds a value that JSON cannot hold exactly, or is too deep")
    encoded = rfc8785.dumps(document)  # type: ignore[arg-type]  # is_exact has looked at it
    if len(encoded) > MAX_REQUEST_BYTES:
        raise Invalid(f"the request has {len(encoded)} bytes, at most {MAX_REQUEST_BYTES} may wait")
    if b"\\u0000" in encoded:
        raise Invalid("the request holds a NUL character")
    return hashlib.sha256(encoded).digest()


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
    deciders = Deciders(requested_by=approval.requested_by, approved_by=by.actor)
    try:
        async with session.begin_nested():
            done = await executors[approval.kind](session, approval.request, deciders, now)
    except (ServiceError, PkiError, ProtocolError) as error:
        return await _fail(session, approval, error.code, error.message, by=by.actor, now=now)
    event = ApprovalApproved(
        by=by.actor,
        fleet=approval.fleet,
        approval_id=approval.id,
        kind=approval.kind,
        requested_by=approval.requested_by.id,
    )
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
    return _approval(row, now=now)


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
    return [_approval(row, now=now) for row in await session.execute(query)]


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
    over = [_approval(row) for row in await session.execute(query)]
    return len(await _expire(session, over, now))


async def _find_same(session: AsyncSession, approval: Approval) -> Approval | None:
    table = tables.approvals
    query = sa.select(table).where(
        table.c.requested_by == approval.requested_by.id,
        table.c.request_sha256 == approval.request_sha256,
        table.c.state == "pending",
    )
    row = (await session.execute(query.with_for_update())).one_or_none()
    return None if row is None else _approval(row)


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
    return _approval(row)


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


async def _expire(
    session: AsyncSession, over: Sequence[Approval], now: datetime
) -> list[Approval]:
    ended = []
    for approval in over:
        event = ApprovalExpired(
            by=SYSTEM,
            fleet=approval.fleet,
            approval_id=approval.id,
            kind=approval.kind,
            requested_by=approval.requested_by.id,
        )
        ended.append(await _end(session, approval, "expired", event, now=now))
    return ended


async def _reject(
    session: AsyncSession, approval: Approval, reason: str | None, *, by: Actor, now: datetime
) -> Approval:
    if not reason or not reason.strip():
        raise Invalid("a rejection needs a reason")
    event = ApprovalRejected(
        by=by,
        fleet=approval.fleet,
        approval_id=approval.id,
        kind=approval.kind,
        requested_by=approval.requested_by.id,
        reason=reason,
    )
    return await _end(session, approval, "rejected", event, reason=reason, now=now)


async def _fail(
    session: AsyncSession,
    approval: Approval,
    code: str,
    message: str,
    *,
    by: Actor,
    now: datetime,
) -> Approval:
    event = ApprovalFailed(
        by=by,
        fleet=approval.fleet,
        approval_id=approval.id,
        kind=approval.kind,
        requested_by=approval.requested_by.id,
        reason=code,
    )
    ended = {"reason": message, "result": {"code": code}}
    return await _end(session, approval, "failed", event, now=now, **ended)


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
    raise NotImplementedError


def _approval(row: sa.Row[tuple[object, ...]], *, now: datetime | None = None) -> Approval:
    raise NotImplementedError
