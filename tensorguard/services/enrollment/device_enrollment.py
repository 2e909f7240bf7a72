"""Enrollment by mTLS: a device with its manufacturer's certificate becomes an agent, once.

It is known by the key that its manufacturer certified and by (issuer, subject serialNumber). Both
stay taken, whatever becomes of the agent, until an operator releases it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.csr import parse_csr
from tensorguard.pki.errors import WrongIssuer
from tensorguard.pki.identity import AgentIdentity, DeviceIdentity, key_sha256, serial_text
from tensorguard.pki.issuer import AGENT_LIFETIME, certificate_pem
from tensorguard.pki.keys import parse_x25519_public
from tensorguard.pki.manufacturer import verify_device
from tensorguard.protocol.messages import (
    DeviceEnrollRequest,
    Enrolled,
    EnrollmentPending,
    MqttAddress,
)
from tensorguard.services.enrollment.applicants import check_facts, parse_name
from tensorguard.services.enrollment.enrollment_batch import MOST_PENDING, pending_answer
from tensorguard.services.enrollment.enrollment_rows import find_owners, insert_certificates
from tensorguard.services.enrollment.manufacturer_errors import (
    DeviceAlreadyEnrolled,
    ManufacturerCaExhausted,
    OperationalKeyNotNew,
    SerialNotListed,
)
from tensorguard.services.errors import EnrollmentRejected, KeyAlreadyEnrolled, TooManyPending
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, AgentEnrolled, AgentPending
from tensorguard.services.fleets.fleets import get_config_envelope
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.trust.trust import get_latest_bundle
from tensorguard.store.ids import new_id
from tensorguard.store.tables import (
    agent_state,
    agent_status,
    agents,
    certificates,
    manufacturer_cas,
)


async def enroll_device(
    session: AsyncSession,
    keyring: Keyring,
    certificate: bytes,
    request: DeviceEnrollRequest,
    *,
    mqtt: MqttAddress,
    device_url: str,
    now: datetime,
    lifetime: timedelta = AGENT_LIFETIME,
) -> Enrolled | EnrollmentPending:
    """Make an agent of a device that has proven to hold its `certificate`'s key, or answer again.

    The certificate (DER) is verified here once more: whether its CA is active, this transaction
    says. The caller commits; after any refusal it rolls back, and nothing is stored.
    Raises: EnrollmentRefused, CertificateRefused, CsrRefused, BadKey (one of their kinds).
    """
    ca, identity, spki = await _lock_issuer(session, certificate, now)
    if ca.serials is not None and identity.serial not in ca.serials:
        raise SerialNotListed("this device's serial number is not on the operator's list")
    key = _check(request)
    if key_sha256(key) == spki:
        raise OperationalKeyNotNew("the request is for the key that the manufacturer has certified")
    enrollment = _Enrollment(
        session, keyring, ca, identity, spki, key, request, mqtt, device_url, now, lifetime
    )
    known = await enrollment.find_agent()
    return await (enrollment.admit() if known is None else enrollment.answer_again(known))


async def _lock_issuer(
    session: AsyncSession, certificate: bytes, now: datetime
) -> tuple[sa.Row[Any], DeviceIdentity, bytes]:
    """The CA that lets this device in, locked: whoever counts its agents counts alone."""
    table = manufacturer_cas
    query = sa.select(table.c.certificate).where(table.c.state == "active", table.c.not_after > now)
    pems = (await session.execute(query)).scalars()
    peer = verify_device(
        certificate, [x509.load_pem_x509_certificate(pem.encode()) for pem in pems], now
    )
    identity = peer.identity
    assert isinstance(identity, DeviceIdentity)  # what verify_device returns
    issuer = identity.issuer_spki_sha256
    locked = sa.select(table).where(table.c.spki_sha256 == issuer, table.c.state == "active")
    ca: sa.Row[Any] | None = (await session.execute(locked.with_for_update())).one_or_none()
    if ca is None:
        raise WrongIssuer("the manufacturer CA was revoked at this moment")
    return ca, identity, bytes.fromhex(peer.spki_sha256)


def _check(request: DeviceEnrollRequest) -> ec.EllipticCurvePublicKey:
    key = parse_csr(request.csr)
    parse_x25519_public(request.encryption_key)
    parse_name(request.name)
    check_facts(request.facts)
    return key


@dataclass(frozen=True, slots=True)
class _Enrollment:
    """One request under way: everything its steps share; `spki` is of the manufacturer's key."""

    session: AsyncSession
    keyring: Keyring
    ca: sa.Row[Any]
    identity: DeviceIdentity
    spki: bytes
    key: ec.EllipticCurvePublicKey
    request: DeviceEnrollRequest
    mqtt: MqttAddress
    device_url: str
    now: datetime
    lifetime: timedelta

    async def find_agent(self) -> sa.Row[Any] | None:
        """The agent that this device is, or that has its encryption key; locked."""
        is_this = sa.or_(
            agents.c.enrolled_spki_sha256 == self.spki,
            agents.c.encryption_key == self.request.encryption_key,
            sa.and_(
                agents.c.device_issuer_spki_sha256 == self.identity.issuer_spki_sha256,
                agents.c.device_serial == self.identity.serial,
            ),
        )
        query = sa.select(agents).where(is_this, agents.c.released_at.is_(None)).limit(1)
        return (await self.session.execute(query.with_for_update())).one_or_none()

    async def admit(self) -> Enrolled | EnrollmentPending:
        """Make the agent, if the CA may bring one more."""
        await self._check_room()
        agent_id = new_id()
        pending = self.ca.approval == "manual"
        try:
            await self._insert(agent_id, pending=pending)
        except IntegrityError as error:
            if not isinstance(error.orig, psycopg.errors.UniqueViolation):
                raise
            # With a token at the same moment: only one of the two may have the key.
            raise KeyAlreadyEnrolled("this key belongs to an agent already") from None
        if not pending:
            return await self._answer(agent_id, await self._certify(agent_id))
        event = AgentPending(
            by=Actor("agent", str(agent_id)),
            fleet=self.ca.fleet,
            agent_id=agent_id,
            manufacturer_ca_id=self.ca.id,
        )
        await ledger.record(self.session, event, now=self.now)
        return pending_answer(agent_id, self.now, self.now)

    async def answer_again(self, known: sa.Row[Any]) -> Enrolled | EnrollmentPending:
        """Answer a device that is known: as before, or not at all."""
        if not self._is_same(known):
            raise DeviceAlreadyEnrolled("this device, or its encryption key, is an agent's already")
        if known.status == "pending":
            return pending_answer(known.id, known.created_at, self.now)
        if known.status == "rejected":
            raise EnrollmentRejected(f"this device was rejected: {known.status_reason or '-'}")
        if known.status != "active":
            raise DeviceAlreadyEnrolled(f"this device is an agent that was {known.status}")
        query = sa.select(certificates).where(certificates.c.agent_id == known.id)
        rows = (await self.session.execute(query.limit(2))).all()
        if not rows:
            return await self._answer(known.id, await self._certify(known.id))
        if len(rows) > 1 or rows[0].first_connected_at is not None:
            raise DeviceAlreadyEnrolled("this device is an agent that has connected already")
        if bytes(rows[0].spki_sha256) != key_sha256(self.key):
            raise DeviceAlreadyEnrolled("this device has a certificate for another key already")
        return await self._answer(known.id, rows[0].certificate)

    def _is_same(self, known: sa.Row[Any]) -> bool:
        # By issuer, not by registration: the CA may have been registered again since.
        return (
            known.fleet == self.ca.fleet
            and bytes(known.enrolled_spki_sha256) == self.spki
            and bytes(known.device_issuer_spki_sha256 or b"") == self.identity.issuer_spki_sha256
            and known.device_serial == self.identity.serial
            and bytes(known.encryption_key) == self.request.encryption_key
        )

    async def _check_room(self) -> None:
        waits = sa.func.count().filter(agents.c.status == "pending").label("waiting")
        query = sa.select(sa.func.count().label("came"), waits).where(
            agents.c.manufacturer_ca_id == self.ca.id, agents.c.released_at.is_(None)
        )
        row = (await self.session.execute(query)).one()
        if row.came >= self.ca.max_agents:
            raise ManufacturerCaExhausted(f"{row.came} agents have come by this manufacturer CA")
        if self.ca.approval == "manual" and row.waiting >= MOST_PENDING:
            raise TooManyPending(f"{MOST_PENDING} devices of this maker wait for an operator")

    async def _insert(self, agent_id: UUID, *, pending: bool) -> None:
        await self.session.execute(
            sa.insert(agents).values(
                id=agent_id,
                fleet=self.ca.fleet,
                name=parse_name(self.request.name),
                tags=self.ca.tags,
                facts=self.request.facts,
                status="pending" if pending else "active",
                enrolled_by="mtls",
                manufacturer_ca_id=self.ca.id,
                device_issuer_spki_sha256=self.identity.issuer_spki_sha256,
                device_serial=self.identity.serial,
                enrolled_spki_sha256=self.spki,
                encryption_key=self.request.encryption_key,
                created_at=self.now,
            )
        )
        await self.session.execute(sa.insert(agent_state).values(agent_id=agent_id))
        await self.session.execute(
            sa.insert(agent_status).values(
                agent_id=agent_id, presence="never", presence_since=self.now
            )
        )

    async def _certify(self, agent_id: UUID) -> str:
        """Issue the first certificate, for a key that is nobody's."""
        owners = await find_owners(self.session, [key_sha256(self.key)], [])
        if owners.by_spki or owners.certified:
            raise KeyAlreadyEnrolled("this key belongs to an agent already")
        identity = AgentIdentity(self.keyring.trust_domain, self.ca.fleet, agent_id)
        issued = self.keyring.ca.issue_agent(self.key, identity, self.now, self.lifetime)
        await insert_certificates(self.session, {agent_id: issued}, now=self.now)
        event = AgentEnrolled(
            by=Actor("agent", str(agent_id)),
            fleet=self.ca.fleet,
            agent_id=agent_id,
            manufacturer_ca_id=self.ca.id,
            serial=serial_text(issued.serial_number),
        )
        await ledger.record(self.session, event, now=self.now)
        return certificate_pem(issued)

    async def _answer(self, agent_id: UUID, certificate: str) -> Enrolled:
        fleet = self.ca.fleet
        config = await get_config_envelope(self.session, self.keyring, fleet, now=self.now)
        bundle = await get_latest_bundle(self.session)
        return Enrolled(
            agent_id=agent_id,
            fleet=fleet,
            certificate=certificate,
            mqtt=self.mqtt,
            config=msgspec.json.decode(config),
            trust=msgspec.json.decode(bundle.envelope),
            device_url=self.device_url,
        )
