"""One approval: its kind, its exact request, and what becomes of it; approvals.py moves it on."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, TypeAlias, cast
from uuid import UUID

import rfc8785
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.entry import is_exact
from tensorguard.services.errors import Conflict, Invalid, NotFound
from tensorguard.services.evidence.event import Actor
from tensorguard.services.people.access import Permission

MAX_REQUEST_BYTES: Final = 256 * 1024

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | bool | None"
State = Literal["pending", "approved", "rejected", "expired", "failed"]


class ApprovalKind(StrEnum):
    """What takes a second person."""

    REVOKE_FLEET = "fleet.revoke"
    REVOKE_AGENT = "agent.revoke"
    REGISTER_MANUFACTURER = "manufacturer-ca.register"
    REGISTER_PUBLISHER = "publisher.register"
    CHANGE_PUBLISHER = "publisher.change"
    REVOKE_PUBLISHER = "publisher.revoke"
    PUBLISH_TRUST = "trust-bundle.publish"
    DESTROY_KEY = "kek.destroy-version"
    START_DEPLOYMENT = "deployment.start"
    WAIVE_APPROVAL = "fleet.waive-approval"


PERMISSIONS: Final[Mapping[ApprovalKind, Permission]] = {
    ApprovalKind.REVOKE_FLEET: Permission.AGENTS_REVOKE,
    ApprovalKind.REVOKE_AGENT: Permission.AGENTS_REVOKE,
    ApprovalKind.REGISTER_MANUFACTURER: Permission.MANUFACTURERS_WRITE,
    ApprovalKind.REGISTER_PUBLISHER: Permission.PUBLISHERS_WRITE,
    ApprovalKind.CHANGE_PUBLISHER: Permission.PUBLISHERS_WRITE,
    ApprovalKind.REVOKE_PUBLISHER: Permission.PUBLISHERS_WRITE,
    ApprovalKind.PUBLISH_TRUST: Permission.TRUST_WRITE,
    ApprovalKind.DESTROY_KEY: Permission.KEYS_WRITE,
    ApprovalKind.START_DEPLOYMENT: Permission.DEPLOYMENTS_WRITE,
    ApprovalKind.WAIVE_APPROVAL: Permission.FLEETS_WRITE,
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
"""Does what was asked for, in the caller's transaction; what it returns is kept as `result`."""


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
    encoded = rfc8785.dumps(document)
    if len(encoded) > MAX_REQUEST_BYTES:
        raise Invalid(f"the request has {len(encoded)} bytes, at most {MAX_REQUEST_BYTES} may wait")
    if b"\\u0000" in encoded:
        raise Invalid("the request holds a NUL character")
    return hashlib.sha256(encoded).digest()


def approval_of(row: sa.Row[Any], *, now: datetime | None = None) -> Approval:
    """Return a row of `approvals`; at `now`, one that waits past its time is `expired`."""
    is_over = now is not None and row.state == "pending" and row.expires_at <= now
    return Approval(
        id=row.id,
        kind=ApprovalKind(row.kind),
        fleet=row.fleet,
        request=row.request,
        request_sha256=bytes(row.request_sha256),
        state=cast(State, "expired" if is_over else row.state),
        requested_at=row.requested_at,
        requested_by=Actor(row.requested_by_kind, row.requested_by),
        expires_at=row.expires_at,
        decided_at=row.decided_at,
        decided_by=row.decided_by,
        reason=row.reason,
        result=row.result,
    )
