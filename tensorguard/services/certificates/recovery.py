"""Coming back after the certificate's end: by proof of its key, and an operator's approval.

Stateless challenges keep a proof from being made in advance. Which certificate it is about decides
what is stored of it, not what a CA once signed: only one that is known and was not superseded
counts, and the agent's row is locked when a new one is issued.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.csr import parse_csr
from tensorguard.pki.identity import AgentIdentity, key_sha256, serial_text
from tensorguard.pki.issuer import certificate_pem
from tensorguard.protocol.recovery import (
    Recovered,
    RecoverRequest,
    RecoveryChallenge,
    RecoveryPending,
    proof_text,
)
from tensorguard.services.certificates.certificate_events import (
    AgentRecovered,
    RecoveryApproved,
    RecoveryRejected,
    RecoveryRequested,
)
from tensorguard.services.enrollment.enrollment import store_certificate
from tensorguard.services.errors import Conflict, Denied, NotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.ids import new_id
from tensorguard.store.recoveries import find_recovery, state_at
from tensorguard.store.tables import agents, certificates, recoveries

GRACE: Final = timedelta(days=30)
CHALLENGE_VALID_FOR: Final = timedelta(minutes=5)
WAITS_FOR: Final = timedelta(days=7)
REJECTED_FOR: Final = timedelta(days=1)
POLL_AFTER_S: Final = 60
_LABEL: Final = b"tensorguard/recovery-challenge/v1\0"
_NONCE_BYTES: Final = 16


class RecoveryRefused(Denied):
    """The device may not come back in this way; the subclass says why."""

    code = "recovery-refused"
    hint = "Enrol the device anew, with a new join string."


class ChallengeExpired(RecoveryRefused):
    """The challenge is none of ours, or too old."""

    code = "recovery-challenge-expired"
    hint = "Fetch another challenge and sign that."


class ProofInvalid(RecoveryRefused):
    """The certificate is not known, or the proof is not by its key."""

    code = "recovery-proof-invalid"


class CertificateReplaced(RecoveryRefused):
    """The agent has connected with a newer certificate: this one was restored from a copy."""

    code = "recovery-certificate-superseded"


class AgentNotActive(RecoveryRefused):
    """The agent was revoked."""

    code = "recovery-agent-not-active"


class RecoveryTooLate(RecoveryRefused):
    """The certificate ended longer ago than the grace period."""

    code = "recovery-too-late"


class RecoveryWasRejected(RecoveryRefused):
    """An operator has rejected this request."""

    code = "recovery-rejected"
    hint = "Ask the operator for the reason."


class CertificateStillGood(Conflict):
    """The certificate has not ended: there is nothing to recover."""

    code = "recovery-certificate-still-good"
    hint = "Connect with it; check the device's clock."


class OtherRecoveryPending(Conflict):
    """Another key waits for approval: the operator has to reject that request first."""

    code = "recovery-other-pending"
    hint = "Ask again with the first request's csr, or have that request rejected."


class RecoveryNotFound(NotFound):
    """No recovery has this id."""

    code = "recovery-not-found"
    hint = "List the recoveries."


class RecoveryDecided(Conflict):
    """The recovery is not pending any more."""

    code = "recovery-decided"
    hint = "Read it again; a device that still wants to come back asks anew."


@dataclass(frozen=True, slots=True)
class _Proven:
    """Whose key has signed, for which certificate, and what for."""

    agent_id: UUID
    serial: str
    not_after: datetime
    superseded: bool
    new_key: ec.EllipticCurvePublicKey
    request: RecoverRequest

    @property
    def spki_sha256(self) -> bytes:
        return key_sha256(self.new_key)


def new_challenge(key: bytes, now: datetime) -> RecoveryChallenge:
    """Return a challenge that `recover` accepts for five minutes; nothing is stored of it."""
    ends = int((now + CHALLENGE_VALID_FOR).timestamp())
    body = secrets.token_bytes(_NONCE_BYTES) + ends.to_bytes(8, "big")
    text = base64.urlsafe_b64encode(body + _mac(key, body)).decode()
    return RecoveryChallenge(challenge=text, expires_at=datetime.fromtimestamp(ends, UTC))


async def recover(
    session: AsyncSession,
    keyring: Keyring,
    request: RecoverRequest,
    *,
    peer: str,
    now: datetime,
    grace: timedelta = GRACE,
) -> Recovered | RecoveryPending:
    """Ask for, or collect, a certificate in place of one that has ended.

    The same csr gets the same answer: pending, rejected, or once approved the certificate.
    Raises: RecoveryRefused, CertificateStillGood, OtherRecoveryPending, CsrRefused, BadKey.
    """
    _check_challenge(keyring.url_key, request.challenge, now)
    proven = await _prove(session, request)
    agent = await _lock_agent(session, proven.agent_id)
    if agent.status != "active":
        raise AgentNotActive(f"agent {proven.agent_id} is {agent.status}")
    if proven.superseded:
        raise CertificateReplaced(f"certificate {proven.serial} was superseded")
    if now < proven.not_after:
        raise CertificateStillGood(f"the certificate is good until {proven.not_after.isoformat()}")
    if now - proven.not_after > grace:
        raise RecoveryTooLate(f"the certificate ended more than {grace.days} days ago")
    known = await _find_request(session, proven, now)
    if known is None:
        return await _ask(session, agent.fleet, proven, peer, now)
    if bytes(known.spki_sha256) != proven.spki_sha256:
        raise OtherRecoveryPending(f"agent {proven.agent_id} has asked with another key")
    if known.state == "rejected":
        raise RecoveryWasRejected(f"an operator has rejected it: {known.reason or '-'}")
    if known.state == "approved":
        certificate = await _collect(session, keyring, agent.fleet, known, proven, now)
        return Recovered(agent_id=proven.agent_id, fleet=agent.fleet, certificate=certificate)
    return RecoveryPending(agent_id=proven.agent_id, poll_after_s=POLL_AFTER_S)


async def get_recovery(session: AsyncSession, recovery_id: UUID, *, now: datetime) -> sa.RowMapping:
    """Return one recovery as the list shows it. Raises: RecoveryNotFound."""
    row = await find_recovery(session, recovery_id, now=now)
    if row is None:
        raise RecoveryNotFound(f"there is no recovery {recovery_id}")
    return row


async def decide_recovery(
    session: AsyncSession,
    recovery_id: UUID,
    *,
    approve: bool,
    reason: str | None = None,
    by: Actor,
    now: datetime,
) -> None:
    """Approve or reject a pending recovery; the certificate is issued when the device asks again.

    Raises: RecoveryNotFound, RecoveryDecided, AgentNotActive.
    """
    found = await get_recovery(session, recovery_id, now=now)
    agent = await _lock_agent(session, found["agent_id"])
    table = recoveries.c
    query = sa.select(state_at(now)).where(table.id == recovery_id).with_for_update()
    state = (await session.execute(query)).scalar_one()
    if state != "pending":
        raise RecoveryDecided(f"recovery {recovery_id} is {state}")
    if approve and agent.status != "active":
        raise AgentNotActive(f"agent {found['agent_id']} is {agent.status}")
    await session.execute(
        sa.update(recoveries)
        .where(table.id == recovery_id)
        .values(
            state="approved" if approve else "rejected",
            reason=reason,
            decided_at=now,
            decided_by=by.id,
            expires_at=now + (WAITS_FOR if approve else REJECTED_FOR),
        )
    )
    ids = {"agent_id": found["agent_id"], "recovery_id": recovery_id}
    event = (
        RecoveryApproved(by=by, fleet=agent.fleet, **ids)
        if approve
        else RecoveryRejected(by=by, fleet=agent.fleet, reason=reason or "", **ids)
    )
    await ledger.record(session, event, now=now)


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, _LABEL + body, hashlib.sha256)


def _check_challenge(key: bytes, challenge: str, now: datetime) -> None:
    try:
        raw = base64.b64decode(challenge.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    body, mac = raw[: _NONCE_BYTES + 8], raw[_NONCE_BYTES + 8 :]
    if not hmac.compare_digest(mac, _mac(key, body)):
        raise ChallengeExpired("the challenge is not one of this platform")
    if now.timestamp() >= int.from_bytes(body[_NONCE_BYTES:], "big"):
        raise ChallengeExpired("the challenge has expired")


async def _prove(session: AsyncSession, request: RecoverRequest) -> _Proven:
    """Return what the request proves. Raises: ProofInvalid, CsrRefused."""
    new_key = parse_csr(request.csr)
    try:
        shown = x509.load_pem_x509_certificate(request.certificate.encode())
        serial = serial_text(shown.serial_number)
    except ValueError:
        raise ProofInvalid("the certificate cannot be read") from None
    table = certificates.c
    row = (
        await session.execute(sa.select(certificates).where(table.serial == serial))
    ).one_or_none()
    if row is None:
        raise ProofInvalid("this platform has not issued the certificate")
    # Its own words count for nothing: the key and the dates are those that were stored.
    issued = x509.load_pem_x509_certificate(row.certificate.encode())
    old_key = issued.public_key()
    assert isinstance(old_key, ec.EllipticCurvePublicKey)
    text = proof_text(request.challenge, request.csr)
    try:
        old_key.verify(request.proof, text, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise ProofInvalid("the proof is not by the certificate's key") from None
    if key_sha256(new_key) == bytes(row.spki_sha256):
        raise ProofInvalid("the csr is for the old key", hint="Make a new key.")
    return _Proven(
        row.agent_id, serial, row.not_after, row.superseded_at is not None, new_key, request
    )


async def _lock_agent(session: AsyncSession, agent_id: UUID) -> sa.Row[Any, Any]:
    query = sa.select(agents.c.fleet, agents.c.status).where(agents.c.id == agent_id)
    return (await session.execute(query.with_for_update())).one()


async def _find_request(
    session: AsyncSession, proven: _Proven, now: datetime
) -> sa.Row[Any] | None:
    """Return the agent's request that still counts; those whose time is over are closed."""
    table = recoveries.c
    await session.execute(
        sa.update(recoveries)
        .where(table.agent_id == proven.agent_id, table.state == "pending", table.expires_at <= now)
        .values(state="expired")
    )
    same = (table.spki_sha256 == proven.spki_sha256) & (table.serial == proven.serial)
    query = (
        sa.select(recoveries)
        .where(
            table.agent_id == proven.agent_id,
            table.expires_at > now,
            (table.state == "pending") | same,
        )
        .order_by(same.desc(), table.requested_at.desc())
        .limit(1)
    )
    return (await session.execute(query)).one_or_none()


async def _ask(
    session: AsyncSession, fleet: str, proven: _Proven, peer: str, now: datetime
) -> RecoveryPending:
    recovery_id = new_id()
    await session.execute(
        sa.insert(recoveries).values(
            id=recovery_id,
            agent_id=proven.agent_id,
            serial=proven.serial,
            csr=proven.request.csr,
            spki_sha256=proven.spki_sha256,
            peer=peer,
            state="pending",
            requested_at=now,
            expires_at=now + WAITS_FOR,
        )
    )
    event = RecoveryRequested(
        by=Actor("agent", str(proven.agent_id)),
        fleet=fleet,
        agent_id=proven.agent_id,
        recovery_id=recovery_id,
        serial=proven.serial,
    )
    await ledger.record(session, event, now=now)
    return RecoveryPending(agent_id=proven.agent_id, poll_after_s=POLL_AFTER_S)


async def _collect(
    session: AsyncSession,
    keyring: Keyring,
    fleet: str,
    known: sa.Row[Any],
    proven: _Proven,
    now: datetime,
) -> str:
    """Return the certificate of an approved recovery, issued when it is first asked for."""
    if known.issued is not None:
        query = sa.select(certificates.c.certificate).where(certificates.c.serial == known.issued)
        return str((await session.execute(query)).scalar_one())
    identity = AgentIdentity(keyring.trust_domain, fleet, proven.agent_id)
    certificate = keyring.ca.issue_agent(proven.new_key, identity, now)
    await store_certificate(session, proven.agent_id, certificate, now=now)
    serial = serial_text(certificate.serial_number)
    await session.execute(
        sa.update(recoveries).where(recoveries.c.id == known.id).values(issued=serial)
    )
    event = AgentRecovered(
        by=Actor("agent", str(proven.agent_id)),
        fleet=fleet,
        agent_id=proven.agent_id,
        recovery_id=known.id,
        serial=serial,
    )
    await ledger.record(session, event, now=now)
    return certificate_pem(certificate)
