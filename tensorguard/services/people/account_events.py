"""What the ledger keeps of people, their sessions and API keys; listed again in events.py."""

from datetime import datetime
from uuid import UUID

from tensorguard.services.evidence.event import Event


class UserCreated(Event, frozen=True, kw_only=True):
    TYPE = "user.created"
    SUBJECT = ("user", "user_id")
    PRIVATE = ("email", "name")
    user_id: UUID
    role: str
    email: str | None = None
    name: str | None = None


class UserRoleChanged(Event, frozen=True, kw_only=True):
    TYPE = "user.role-changed"
    SUBJECT = ("user", "user_id")
    user_id: UUID
    before: str
    after: str


class UserPasswordReset(Event, frozen=True, kw_only=True):
    TYPE = "user.password-reset"
    SUBJECT = ("user", "user_id")
    user_id: UUID


class UserDisabled(Event, frozen=True, kw_only=True):
    TYPE = "user.disabled"
    SUBJECT = ("user", "user_id")
    user_id: UUID


class SessionSignedIn(Event, frozen=True, kw_only=True):
    TYPE = "session.signed-in"
    SUBJECT = ("user", "user_id")
    PRIVATE = ("address",)
    user_id: UUID
    session_id: UUID | None = None
    address: str | None = None


class SessionSignedOut(Event, frozen=True, kw_only=True):
    TYPE = "session.signed-out"
    SUBJECT = ("user", "user_id")
    user_id: UUID
    session_id: UUID | None = None


class SessionFailed(Event, frozen=True, kw_only=True):
    """`count` failed sign-ins; `user_id` is None when no such user exists, and then there is
    nobody for whom the address could be forgotten: it is left out."""

    TYPE = "session.failed"
    SUBJECT = ("user", "user_id")
    OUTCOME = "denied"
    PRIVATE = ("address",)
    user_id: UUID | None
    reason: str
    count: int = 1
    since: datetime | None = None
    address: str | None = None


class ApiKeyCreated(Event, frozen=True, kw_only=True):
    TYPE = "api-key.created"
    SUBJECT = ("api-key", "api_key_id")
    api_key_id: UUID
    role: str
    expires_at: datetime | None = None


class ApiKeyRevoked(Event, frozen=True, kw_only=True):
    TYPE = "api-key.revoked"
    SUBJECT = ("api-key", "api_key_id")
    api_key_id: UUID
