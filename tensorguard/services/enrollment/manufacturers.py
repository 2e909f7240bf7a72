"""Manufacturer CAs: whose devices may enrol by the certificate that they left the factory with.

Registered by one person, proven by the CA's key, activated by a second person. What was registered
is never changed: other terms are another registration, with its own proof and approval.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
import sqlalchemy as sa
from cryptography import x509
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import key_sha256
from tensorguard.pki.issuer import certificate_pem
from tensorguard.pki.manufacturer import SERIAL_LIMIT, parse_ca, verify_proof
from tensorguard.protocol.messages import Tags
from tensorguard.services.enrollment.manufacturer_errors import (
    BadManufacturerCa,
    BadProof,
    ChallengeExpired,
    ManufacturerCaExists,
    ManufacturerCaNotFound,
    ManufacturerCaSettled,
    TooManyManufacturerCas,
)
from tensorguard.services.errors import FleetNotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import (
    ManufacturerCaActivated,
    ManufacturerCaProven,
    ManufacturerCaRegistered,
    ManufacturerCaRevoked,
)
from tensorguard.services.people.access import Caller
from tensorguard.services.people.approvals import Approval, ApprovalKind, ask
from tensorguard.store.fleets import find_fleet
from tensorguard.store.ids import new_id
from tensorguard.store.tables import agents, ca_certificates, manufacturer_cas

CHANNEL: Final = "tg_manufacturers"
CHALLENGE_VALID_FOR: Final = timedelta(hours=24)
# Half of a common name's 64 characters are 128 bits; this fits with room to spare.
_CHALLENGE_BYTES: Final = 24
MOST_AGENTS: Final = 1_000_000
MOST_SERIALS: Final = 10_000
MOST_TAGS: Final = 64
MOST_OF_A_FLEET: Final = 50
_LINE: Final = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
# How many agents have come by it and hold their place.
_AGENTS: Final = (
    sa.select(sa.func.count())
    .where(agents.c.manufacturer_ca_id == manufacturer_cas.c.id, agents.c.released_at.is_(None))
    .scalar_subquery()
    .label("agents")
)
# The year 9999, as IEEE 802.1AR writes "never", has no time in zones east of Greenwich.
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManufacturerTerms:
    """What a manufacturer CA is registered for; no `serials` means: every device of the maker."""

    name: str
    approval: Literal["auto", "manual"] = "manual"
    serials: Sequence[str] | None = None
    max_agents: int
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises: BadManufacturerCa."""
        if _LINE.fullmatch(self.name) is None:
            raise BadManufacturerCa("a name has 1 to 200 characters, none of them control")
        if self.approval not in ("auto", "manual"):
            raise BadManufacturerCa("approval is auto or manual")
        if not 1 <= self.max_agents <= MOST_AGENTS:
            raise BadManufacturerCa(f"a manufacturer CA brings 1 to {MOST_AGENTS} agents")
        serials = self.serials
        if serials is not None and not 1 <= len(serials) <= MOST_SERIALS:
            raise BadManufacturerCa(f"a list of serial numbers has 1 to {MOST_SERIALS} of them")
        for serial in serials or ():
            if not _LINE.fullmatch(serial) or len(serial) > SERIAL_LIMIT:
                raise BadManufacturerCa(f"{serial[:80]!r} is no serial number")
        try:
            msgspec.convert(dict(self.tags), Tags)
        except msgspec.ValidationError as error:
            raise BadManufacturerCa(f"the tags are not allowed: {error}") from None
        if len(self.tags) > MOST_TAGS:
            raise BadManufacturerCa(f"an agent has at most {MOST_TAGS} tags")


async def register_manufacturer(
    session: AsyncSession,
    fleet: str,
    certificate: str,
    terms: ManufacturerTerms,
    *,
    by: Actor,
    now: datetime,
) -> UUID:
    """Store a CA certificate (PEM) with a challenge that its key has to sign within 24 hours.

    Raises: FleetNotFound, BadManufacturerCa, ManufacturerCaExists, TooManyManufacturerCas.
    """
    if await find_fleet(session, fleet) is None:
        raise FleetNotFound(f"there is no fleet {fleet[:80]!r}")
    try:
        ca = parse_ca(certificate, now)
    except PkiError as error:
        raise BadManufacturerCa(error.message) from None
    spki = key_sha256(ca.public_key())
    await _check_registrable(session, fleet, spki)
    ca_id = new_id()
    serials = None if terms.serials is None else sorted(set(terms.serials))
    not_after = min(ca.not_valid_after_utc, _LATEST)
    await session.execute(
        sa.insert(manufacturer_cas).values(
            id=ca_id,
            fleet=fleet,
            name=terms.name,
            certificate=certificate_pem(ca),
            spki_sha256=spki,
            approval=terms.approval,
            serials=serials,
            tags=dict(terms.tags),
            max_agents=terms.max_agents,
            state="unproven",
            challenge=secrets.token_hex(_CHALLENGE_BYTES),
            challenge_expires_at=now + CHALLENGE_VALID_FOR,
            not_after=not_after,
            created_at=now,
            created_by=by.id,
        )
    )
    event = ManufacturerCaRegistered(
        by=by,
        fleet=fleet,
        manufacturer_ca_id=ca_id,
        spki_sha256=spki,
        approval=terms.approval,
        max_agents=terms.max_agents,
        serials=None if serials is None else len(serials),
        not_after=not_after,
    )
    await ledger.record(session, event, now=now)
    return ca_id


async def prove_manufacturer(
    session: AsyncSession,
    ca_id: UUID,
    certificate: str,
    *,
    fleet: str,
    by: Caller,
    now: datetime,
) -> Approval:
    """Take a certificate that the CA has issued over its challenge, and ask a second person.

    Raises: ManufacturerCaNotFound, ManufacturerCaSettled, ChallengeExpired, BadProof,
    ManufacturerCaExists, and what `approvals.ask` raises.
    """
    row = await _lock_unproven(session, ca_id, fleet)
    if row.challenge_expires_at <= now:
        raise ChallengeExpired(f"the challenge expired at {row.challenge_expires_at.isoformat()}")
    ca = x509.load_pem_x509_certificate(row.certificate.encode())
    try:
        verify_proof(certificate, ca, row.challenge, now)
    except PkiError as error:
        raise BadProof(error.message) from None
    await _check_not_active(session, bytes(row.spki_sha256))
    event = ManufacturerCaProven(
        by=by.actor, fleet=fleet, manufacturer_ca_id=ca_id, spki_sha256=bytes(row.spki_sha256)
    )
    await ledger.record(session, event, now=now)
    # Everything that follows from it, for the second person to read: none of it can change.
    request = {
        "manufacturer_ca_id": str(ca_id),
        "name": row.name,
        "spki_sha256": bytes(row.spki_sha256).hex(),
        "approval": row.approval,
        "max_agents": row.max_agents,
        "serials": None if row.serials is None else len(row.serials),
        "tags": row.tags,
    }
    return await ask(
        session, ApprovalKind.REGISTER_MANUFACTURER, request, fleet=fleet, by=by, now=now
    )


async def activate_manufacturer(
    session: AsyncSession, ca_id: UUID, *, by: Actor, approved_by: Actor, now: datetime
) -> None:
    """Let a proven CA's devices enrol from now on: what a second person's approval does.

    Raises: ManufacturerCaNotFound, ManufacturerCaSettled, ManufacturerCaExists.
    """
    row = await _lock_unproven(session, ca_id)
    await _check_not_active(session, bytes(row.spki_sha256))
    await session.execute(
        sa.update(manufacturer_cas)
        .where(manufacturer_cas.c.id == ca_id)
        .values(state="active", activated_at=now)
    )
    event = ManufacturerCaActivated(
        by=by,
        fleet=row.fleet,
        manufacturer_ca_id=ca_id,
        spki_sha256=bytes(row.spki_sha256),
        approved_by=approved_by.id,
    )
    await ledger.record(session, event, now=now)


async def revoke_manufacturer(
    session: AsyncSession, ca_id: UUID, *, fleet: str, by: Actor, now: datetime
) -> None:
    """Let none of its devices enrol any more; once more changes nothing.

    Agents that came by it stay; devices that wait for approval cannot fetch their answer.
    Raises: ManufacturerCaNotFound.
    """
    row = await _lock(session, ca_id, fleet)
    if row.state == "revoked":
        return
    await session.execute(
        sa.update(manufacturer_cas)
        .where(manufacturer_cas.c.id == ca_id)
        .values(state="revoked", revoked_at=now)
    )
    event = ManufacturerCaRevoked(
        by=by, fleet=fleet, manufacturer_ca_id=ca_id, spki_sha256=bytes(row.spki_sha256)
    )
    await ledger.record(session, event, now=now)


async def list_manufacturers(
    session: AsyncSession, fleet: str, *, after: UUID | None = None, limit: int = 100
) -> list[sa.Row[Any]]:
    """A page of a fleet's manufacturer CAs in the order of registration, with their `agents`."""
    table = manufacturer_cas
    query = sa.select(table, _AGENTS).where(table.c.fleet == fleet)
    if after is not None:
        query = query.where(table.c.id > after)
    return list(await session.execute(query.order_by(table.c.id).limit(limit)))


async def get_manufacturer(session: AsyncSession, ca_id: UUID, *, fleet: str) -> sa.Row[Any]:
    """Return one, as `list_manufacturers` does. Raises: ManufacturerCaNotFound."""
    table = manufacturer_cas
    query = sa.select(table, _AGENTS).where(table.c.fleet == fleet, table.c.id == ca_id)
    row: sa.Row[Any] | None = (await session.execute(query)).one_or_none()
    if row is None:
        raise ManufacturerCaNotFound(f"there is no manufacturer CA {ca_id}")
    return row


async def _lock(session: AsyncSession, ca_id: UUID, fleet: str | None) -> sa.Row[Any]:
    query = sa.select(manufacturer_cas).where(manufacturer_cas.c.id == ca_id)
    row = (await session.execute(query.with_for_update())).one_or_none()
    if row is None or fleet not in (None, row.fleet):
        raise ManufacturerCaNotFound(f"there is no manufacturer CA {ca_id}")
    return row


async def _lock_unproven(
    session: AsyncSession, ca_id: UUID, fleet: str | None = None
) -> sa.Row[Any]:
    row = await _lock(session, ca_id, fleet)
    if row.state != "unproven":
        raise ManufacturerCaSettled(f"manufacturer CA {ca_id} is {row.state} already")
    return row


async def _check_registrable(session: AsyncSession, fleet: str, spki: bytes) -> None:
    own = sa.select(ca_certificates.c.spki_sha256).where(ca_certificates.c.spki_sha256 == spki)
    if (await session.execute(own)).first() is not None:
        raise BadManufacturerCa("this is the platform's own CA")
    await _check_not_active(session, spki)
    table = manufacturer_cas
    count = sa.select(sa.func.count()).where(table.c.fleet == fleet, table.c.state != "revoked")
    if (await session.execute(count)).scalar_one() >= MOST_OF_A_FLEET:
        raise TooManyManufacturerCas(f"a fleet has at most {MOST_OF_A_FLEET} manufacturer CAs")


async def _check_not_active(session: AsyncSession, spki: bytes) -> None:
    table = manufacturer_cas
    query = sa.select(table.c.id).where(table.c.spki_sha256 == spki, table.c.state == "active")
    if (found := (await session.execute(query)).scalar()) is not None:
        raise ManufacturerCaExists(f"manufacturer CA {found} has this key and is active")
