"""What the ledger says of manufacturer CAs: ids, digests and terms, never a maker's name."""

from datetime import datetime
from uuid import UUID

from tensorguard.services.evidence.event import Digest, Event


class ManufacturerCaRegistered(Event, frozen=True, kw_only=True):
    """Somebody wants a maker's devices in a fleet; nothing follows from it yet."""

    TYPE = "manufacturer-ca.registered"
    SUBJECT = ("manufacturer-ca", "manufacturer_ca_id")
    manufacturer_ca_id: UUID
    spki_sha256: Digest
    approval: str
    max_agents: int
    serials: int | None
    not_after: datetime


class ManufacturerCaProven(Event, frozen=True, kw_only=True):
    """The CA's key has signed the challenge; a second person decides."""

    TYPE = "manufacturer-ca.proven"
    SUBJECT = ("manufacturer-ca", "manufacturer_ca_id")
    manufacturer_ca_id: UUID
    spki_sha256: Digest


class ManufacturerCaActivated(Event, frozen=True, kw_only=True):
    """From now on its devices may enrol; `approved_by` is the second person."""

    TYPE = "manufacturer-ca.activated"
    SUBJECT = ("manufacturer-ca", "manufacturer_ca_id")
    manufacturer_ca_id: UUID
    spki_sha256: Digest
    approved_by: str


class ManufacturerCaRevoked(Event, frozen=True, kw_only=True):
    """None of its devices may enrol any more; agents that came by it stay."""

    TYPE = "manufacturer-ca.revoked"
    SUBJECT = ("manufacturer-ca", "manufacturer_ca_id")
    manufacturer_ca_id: UUID
    spki_sha256: Digest
