"""Enrollment: a device with a join string becomes an agent, all at once or not at all."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import psycopg
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.csr import parse_csr
from tensorguard.pki.identity import AgentIdentity, authority_key_id, key_sha256, serial_text
from tensorguard.pki.issuer import AGENT_LIFETIME, certificate_pem
from tensorguard.pki.keys import parse_x25519_public
from tensorguard.protocol.messages import (
    Enrolled,
    EnrollmentPending,
    EnrollRequest,
    MqttAddress,
)
from tensorguard.services import ledger
from tensorguard.services.errors import (
    AuthorityRetired,
    BadFacts,
    EnrollmentRejected,
    KeyAlreadyEnrolled,
)
from tensorguard.services.events import Actor, AgentEnrolled
from tensorguard.services.fleets import get_config_envelope
from tensorguard.services.keyring import Keyring
from tensorguard.services.tokens import get_refusal, get_token, give_use_back, is_use_taken
from tensorguard.services.trust import get_latest_bundle
from tensorguard.store import tables
from tensorguard.store.ids import new_id

POLL_AFTER_S: Final = 30
FACTS_LIMIT_BYTES: Final = 16 * 1024
FACTS_DEPTH: Final = 8
NAME_LIMIT: Final = 200
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class _Device:
    """What a request proves and asks for, checked before anything is read or written."""

    public_key: ec.EllipticCurvePublicKey
    spki_sha256: bytes
    encryption_key: bytes
    name: str
    facts: dict[str, Any]


async def enroll(
    session: AsyncSession,
    keyring: Keyring,
    request: EnrollRequest,
    *,
    peer_ip: str,
    mqtt: MqttAddress,
    now: datetime,
    lifetime: timedelta = AGENT_LIFETIME,
) -> Enrolled | EnrollmentPending:
    """Make an agent of a device, or give the same answer again to the same token and keys.

    The caller commits; after any refusal it rolls back, and nothing is stored.
    Raises: EnrollmentRefused, CsrRefused, BadKey (one of their kinds).
    """
    token = await get_token(session, request.token, peer_ip=peer_ip)
    enrollment = _Enrollment(session, keyring, token, _check(request), mqtt, now, lifetime)
    known = await enrollment.find_agent()
    if known is None:
        taken = await is_use_taken(session, token.id, now=now)
        # A twin of this request has committed by now, or waits for the token's row.
        known = await enrollment.find_agent()
        if known is None and not taken:
            raise await get_refusal(session, token.id, now=now)
        if known is None:
            return await enrollment.admit()
        if taken:
            await give_use_back(session, token.id)
    return await enrollment.answer_again(known)


def _check(request: EnrollRequest) -> _Device:
    public_key = parse_csr(request.csr)
    parse_x25519_public(request.encryption_key)
    name = request.name.strip()
    if not name or len(name) > NAME_LIMIT or _CONTROL.search(name):
        raise BadFacts("the device's name has to have 1 to 200 characters, none of them control")
    check_facts(request.facts)
    return _Device(public_key, key_sha256(public_key), request.encryption_key, name, request.facts)


def check_facts(facts: dict[str, Any]) -> None:
    """Refuse facts that the database cannot hold, or that are too many. Raises: BadFacts."""
    for depth, value in _walk(facts, 1):
        if depth > FACTS_DEPTH:
            raise BadFacts(f"the facts are nested deeper than {FACTS_DEPTH}")
        if isinstance(value, str) and _CONTROL.search(value):
            raise BadFacts("the facts have control characters")
        if isinstance(value, float) and not math.isfinite(value):
            raise BadFacts("the facts have a number that is not finite")
        if isinstance(value, int) and abs(value) >= 2**53:
            raise BadFacts("the facts have an integer of 2**53 or more")
    try:
        size = len(json.dumps(facts, ensure_ascii=False).encode("utf-8"))
    except (
        TypeError,
        ValueError,
    ):  # half a surrogate pair is a ValueError
        raise BadFacts("the facts are not JSON") from None
    if size > FACTS_LIMIT_BYTES:
        raise BadFacts(f"the facts have {size} bytes; {FACTS_LIMIT_BYTES} are kept")


def _walk(value: object, depth: int) -> Iterator[tuple[int, object]]:
    yield depth, value
    if depth > FACTS_DEPTH:
        return
    children: list[object] = []
    if isinstance(value, dict):
        children = [*value.keys(), *value.values()]
    elif isinstance(value, list):
        children = value
    for child in children:
        yield from _walk(child, depth + 1)


@dataclass(frozen=True, slots=True)
class _Enrollment:
    """One request under way: everything its steps share."""

    session: AsyncSession
    keyring: Keyring
    token: sa.Row[Any]
    device: _Device
    mqtt: MqttAddress
    now: datetime
    lifetime: timedelta

    async def find_agent(self) -> sa.Row[Any] | None:
        """The agent that has one of the device's keys, whichever token it came with."""
        table = tables.agents
        query = sa.select(table).where(
            sa.or_(
                table.c.enrolled_spki_sha256 == self.device.spki_sha256,
                table.c.encryption_key == self.device.encryption_key,
            )
        )
        return (await self.session.execute(query.limit(1))).one_or_none()

    async def admit(self) -> Enrolled | EnrollmentPending:
        """Make the agent, once a use of the token is taken."""
        agent_id = new_id()
        pending = self.token.approval == "manual"
        try:
            await self.session.execute(
                sa.insert(tables.agents).values(
                    id=agent_id,
                    fleet=self.token.fleet,
                    name=self.device.name,
                    tags=self.token.tags,
                    facts=self.device.facts,
                    status="pending" if pending else "active",
                    enrolled_by="token",
                    token_id=self.token.id,
                    enrolled_spki_sha256=self.device.spki_sha256,
                    encryption_key=self.device.encryption_key,
                    created_at=self.now,
                    enrolled_at=None if pending else self.now,
                )
            )
        except IntegrityError as error:
            if not isinstance(error.orig, psycopg.errors.UniqueViolation):
                raise
            # With another token at the same moment: only one of the two may have the key.
            raise KeyAlreadyEnrolled("this key belongs to an agent already") from None
        await self.session.execute(sa.insert(tables.agent_state).values(agent_id=agent_id))
        await self.session.execute(
            sa.insert(tables.agent_status).values(
                agent_id=agent_id, presence="never", presence_since=self.now
            )
        )
        if pending:
            return EnrollmentPending(agent_id=agent_id, poll_after_s=POLL_AFTER_S)
        return await self._answer(agent_id, await self._certify(agent_id))

    async def answer_again(self, known: sa.Row[Any]) -> Enrolled | EnrollmentPending:
        """Answer a device whose key is known: as before, or not at all."""
        same = (
            known.token_id == self.token.id
            and bytes(known.enrolled_spki_sha256) == self.device.spki_sha256
            and bytes(known.encryption_key) == self.device.encryption_key
        )
        if same and known.status == "pending":
            return EnrollmentPending(agent_id=known.id, poll_after_s=POLL_AFTER_S)
        if same and known.status == "rejected":
            raise EnrollmentRejected(f"this device was rejected: {known.status_reason or '-'}")
        if not same or known.status != "active":
            raise KeyAlreadyEnrolled("this key belongs to an agent already")
        # Locked: of two answers after an approval, one issues the certificate and both give it.
        agents = tables.agents
        await self.session.execute(
            sa.select(agents.c.id).where(agents.c.id == known.id).with_for_update()
        )
        table = tables.certificates
        query = sa.select(table).where(table.c.agent_id == known.id).order_by(table.c.issued_at)
        rows = (await self.session.execute(query)).all()
        if not rows:
            return await self._answer(known.id, await self._certify(known.id))
        if len(rows) > 1 or rows[0].first_connected_at is not None:
            raise KeyAlreadyEnrolled("this key belongs to an agent that has connected already")
        return await self._answer(known.id, rows[0].certificate)

    async def _certify(self, agent_id: UUID) -> str:
        identity = AgentIdentity(self.keyring.trust_domain, self.token.fleet, agent_id)
        certificate = self.keyring.ca.issue_agent(
            self.device.public_key, identity, self.now, self.lifetime
        )
        await store_certificate(self.session, agent_id, certificate, now=self.now)
        event = AgentEnrolled(
            by=Actor("agent", str(agent_id)),
            fleet=self.token.fleet,
            agent_id=agent_id,
            token_id=self.token.id,
            serial=serial_text(certificate.serial_number),
        )
        await ledger.record(self.session, event, now=self.now)
        return certificate_pem(certificate)

    async def _answer(self, agent_id: UUID, certificate: str) -> Enrolled:
        fleet = self.token.fleet
        config = await get_config_envelope(self.session, self.keyring, fleet, now=self.now)
        bundle = await get_latest_bundle(self.session)
        return Enrolled(
            agent_id=agent_id,
            fleet=fleet,
            certificate=certificate,
            mqtt=self.mqtt,
            config=msgspec.json.decode(config),
            trust=msgspec.json.decode(bundle.envelope),
        )


async def store_certificate(
    session: AsyncSession, agent_id: UUID, certificate: x509.Certificate, *, now: datetime
) -> None:
    """Store a certificate that was issued to an agent; every renewal does the same.

    Raises: AuthorityRetired, where the CA was retired since this process has loaded its key.
    """
    key_id = authority_key_id(certificate)
    authorities = tables.ca_certificates
    await session.execute(
        sa.insert(tables.certificates).values(
            serial=serial_text(certificate.serial_number),
            agent_id=agent_id,
            spki_sha256=key_sha256(certificate.public_key()),
            certificate=certificate_pem(certificate),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            issued_at=now,
            authority_key_id=key_id,
        )
    )
    # Locked: a retirement waits for this transaction, or is seen here.
    state = await session.execute(
        sa.select(authorities.c.state)
        .where(authorities.c.subject_key_id == key_id)
        .with_for_update(read=True, key_share=True)
    )
    if state.scalar_one_or_none() == "retired":
        raise AuthorityRetired("the CA that has just issued this certificate is retired")
