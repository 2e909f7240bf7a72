"""What the ledger keeps of second persons and second factors; listed again in events.py."""

from datetime import datetime
from uuid import UUID

from tensorguard.services.evidence.event import Digest, Event


class ApprovalRequested(Event, frozen=True, kw_only=True):
    """The digest is of the exact request: what is approved later is compared with it."""

    TYPE = "approval.requested"
    SUBJECT = ("approval", "approval_id")
    approval_id: UUID
    kind: str
    request_sha256: Digest
    expires_at: datetime


class ApprovalApproved(Event, frozen=True, kw_only=True):
    """A second person has made it happen; what happened has events of its own."""

    TYPE = "approval.approved"
    SUBJECT = ("approval", "approval_id")
    approval_id: UUID
    kind: str
    requested_by: str


class ApprovalRejected(Event, frozen=True, kw_only=True):
    TYPE = "approval.rejected"
    SUBJECT = ("approval", "approval_id")
    approval_id: UUID
    kind: str
    requested_by: str
    reason: str


class ApprovalExpired(Event, frozen=True, kw_only=True):
    TYPE = "approval.expired"
    SUBJECT = ("approval", "approval_id")
    OUTCOME = "failure"
    approval_id: UUID
    kind: str
    requested_by: str


class ApprovalFailed(Event, frozen=True, kw_only=True):
    """It was approved and nothing happened; `reason` is the error's code."""

    TYPE = "approval.failed"
    SUBJECT = ("approval", "approval_id")
    OUTCOME = "failure"
    approval_id: UUID
    kind: str
    requested_by: str
    reason: str


class SecondFactorBegun(Event, frozen=True, kw_only=True):
    """A secret was made; it counts for nothing before it is confirmed."""

    TYPE = "second-factor.begun"
    SUBJECT = ("user", "user_id")
    user_id: UUID


class SecondFactorConfirmed(Event, frozen=True, kw_only=True):
    TYPE = "second-factor.confirmed"
    SUBJECT = ("user", "user_id")
    user_id: UUID


class SecondFactorRemoved(Event, frozen=True, kw_only=True):
    """Removed by the user, who has shown a code."""

    TYPE = "second-factor.removed"
    SUBJECT = ("user", "user_id")
    user_id: UUID


class SecondFactorReset(Event, frozen=True, kw_only=True):
    """Taken away by somebody else, who showed no code."""

    TYPE = "second-factor.reset"
    SUBJECT = ("user", "user_id")
    user_id: UUID


class SecondFactorFailed(Event, frozen=True, kw_only=True):
    """`count` codes or passwords that were not right."""

    TYPE = "second-factor.failed"
    SUBJECT = ("user", "user_id")
    OUTCOME = "denied"
    user_id: UUID
    reason: str
    count: int = 1
    since: datetime | None = None


class SessionSteppedUp(Event, frozen=True, kw_only=True):
    TYPE = "session.stepped-up"
    SUBJECT = ("user", "user_id")
    user_id: UUID
    until: datetime
