"""Ledger events about what agents believe: CAs, and the certificates of services."""

from datetime import datetime

from tensorguard.services.evidence.event import Event


class CaIssuing(Event, frozen=True, kw_only=True):
    """A CA issues from now on, in the place of `before`; both are SHA-256 of an SPKI."""

    TYPE = "ca.issuing"
    SUBJECT = ("ca", "spki_sha256")
    spki_sha256: str
    before: str
    trust_version: int


class CaRetired(Event, frozen=True, kw_only=True):
    """Nothing believes a CA any more; `left` are the agents that still held certificates of it."""

    TYPE = "ca.retired"
    SUBJECT = ("ca", "spki_sha256")
    spki_sha256: str
    left: list[str]


class ServiceCertified(Event, frozen=True, kw_only=True):
    """A service that holds no CA key was given a certificate for these hosts."""

    TYPE = "service.certified"
    SUBJECT = ("service", "instance")
    instance: str
    service: str
    serial: str
    ca: str
    not_after: datetime


class ServiceCertificateRefused(Event, frozen=True, kw_only=True):
    TYPE = "service.certificate-refused"
    SUBJECT = ("service", "instance")
    OUTCOME = "denied"
    instance: str
    service: str
    reason: str
