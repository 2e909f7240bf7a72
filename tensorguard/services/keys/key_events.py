"""What the ledger keeps of KEKs; listed again in events.py.

A key's name in its provider may hold the name of a host: only its SHA-256 stands here.
"""

from datetime import datetime
from uuid import UUID

from tensorguard.services.evidence.event import Digest, Event


class KekEvent(Event, frozen=True, kw_only=True):
    """Something about one KEK; the subclasses name it."""

    SUBJECT = ("kek", "kek_id")
    kek_id: UUID


class KekAdded(KekEvent, frozen=True, kw_only=True):
    """A KEK is in use from now on, for the platform or for one fleet."""

    TYPE = "kek.added"
    provider: str
    reference_sha256: Digest
    origin: str


class KekReplaced(KekEvent, frozen=True, kw_only=True):
    """It wraps nothing new any more; `by_kek_id` does, if there is one."""

    TYPE = "kek.replaced"
    by_kek_id: UUID | None = None


class KekRetired(KekEvent, frozen=True, kw_only=True):
    """No secret needs it any more."""

    TYPE = "kek.retired"


class KekRotated(KekEvent, frozen=True, kw_only=True):
    TYPE = "kek.rotated"
    version: str
    before: str


class KekImported(KekEvent, frozen=True, kw_only=True):
    """Key material of a customer has become the version that wraps."""

    TYPE = "kek.imported"
    version: str
    expires_at: datetime | None = None


class KekVersionDisabled(KekEvent, frozen=True, kw_only=True):
    TYPE = "kek.version-disabled"
    version: str


class KekVersionEnabled(KekEvent, frozen=True, kw_only=True):
    TYPE = "kek.version-enabled"
    version: str


class KekVersionDestroyed(KekEvent, frozen=True, kw_only=True):
    TYPE = "kek.version-destroyed"
    version: str
    approved_by: str


class KekUnusable(KekEvent, frozen=True, kw_only=True):
    """The key was taken away, or cannot be reached: `reason` is the error's code."""

    TYPE = "kek.unusable"
    OUTCOME = "failure"
    reason: str


class KekUsable(KekEvent, frozen=True, kw_only=True):
    """It can be used again."""

    TYPE = "kek.usable"
    since: datetime


class KekExpiring(KekEvent, frozen=True, kw_only=True):
    """Its imported material ends soon."""

    TYPE = "kek.expiring"
    OUTCOME = "failure"
    expires_at: datetime


class RewrapStarted(KekEvent, frozen=True, kw_only=True):
    """Secrets are being moved under the present version of this KEK."""

    TYPE = "kek.rewrap-started"
    job_id: UUID
    kind: str
    secrets: int


class RewrapEnded(KekEvent, frozen=True, kw_only=True):
    """Every secret is where it belongs."""

    TYPE = "kek.rewrap-ended"
    job_id: UUID
    moved: int


class RewrapFailed(KekEvent, frozen=True, kw_only=True):
    """Some secrets stay where they were, and open as before if their own key does."""

    TYPE = "kek.rewrap-failed"
    OUTCOME = "failure"
    job_id: UUID
    moved: int
    failed: int
    reason: str
