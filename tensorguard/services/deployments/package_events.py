"""What the ledger keeps of publishers, packages and releases; listed in evidence/events.py, too."""

from datetime import datetime
from uuid import UUID

from tensorguard.services.evidence.event import Digest, Event


class PublisherRegistered(Event, frozen=True, kw_only=True):
    TYPE = "publisher.registered"
    SUBJECT = ("publisher", "kid")
    kid: str
    packages: list[str]
    not_after: datetime | None = None
    not_before: datetime | None = None
    succeeds: str | None = None


class PublisherChanged(Event, frozen=True, kw_only=True):
    """What a publisher may sign, or until when, is another: what it is now, and what it was."""

    TYPE = "publisher.changed"
    SUBJECT = ("publisher", "kid")
    kid: str
    packages: list[str]
    packages_before: list[str]
    not_after: datetime
    not_after_before: datetime
    reason: str


class PublisherRevoked(Event, frozen=True, kw_only=True):
    TYPE = "publisher.revoked"
    SUBJECT = ("publisher", "kid")
    kid: str
    reason: str | None = None


class PackageUploaded(Event, frozen=True, kw_only=True):
    TYPE = "package.uploaded"
    SUBJECT = ("package", "digest")
    digest: Digest
    size_bytes: int
    publisher_kid: str
    package: str
    version: str


class PackageRefused(Event, frozen=True, kw_only=True):
    """An upload failed verification; `reason` is the error's code."""

    TYPE = "package.refused"
    SUBJECT = ("package", "digest")
    OUTCOME = "denied"
    digest: Digest | None
    reason: str
    size_bytes: int | None = None
    file_sha256: Digest | None = None


class ReleaseCreated(Event, frozen=True, kw_only=True):
    TYPE = "release.created"
    SUBJECT = ("release", "release_id")
    release_id: UUID
    release: str
    version: str
    package_digest: Digest


class ReleaseWithdrawn(Event, frozen=True, kw_only=True):
    """It goes to nobody else; what runs it, runs on."""

    TYPE = "release.withdrawn"
    SUBJECT = ("release", "release_id")
    release_id: UUID
    reason: str
