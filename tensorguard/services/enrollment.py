"""Enrollment: a device with a join string becomes an agent, all at once or not at all."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from cryptography import x509
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.identity import authority_key_id, key_sha256, serial_text
from tensorguard.pki.issuer import AGENT_LIFETIME, certificate_pem
from tensorguard.protocol.messages import EnrollRequest, MqttAddress
from tensorguard.services.applicants import Applicant, check_request
from tensorguard.services.applicants import check_facts as check_facts
from tensorguard.services.enrollment_batch import Answer, EnrollmentBatch, Outcome
from tensorguard.services.errors import EnrollmentRefused
from tensorguard.services.keyring import Keyring
from tensorguard.store import tables


async def enroll(
    session: AsyncSession,
    keyring: Keyring,
    request: EnrollRequest,
    *,
    peer_ip: str,
    mqtt: MqttAddress,
    now: datetime,
    lifetime: timedelta = AGENT_LIFETIME,
) -> Answer:
    """Make an agent of a device, or give the same answer again to the same token and keys.

    The caller commits. Raises: EnrollmentRefused, CsrRefused, BadKey (one of their kinds); nothing
    is stored then.
    """
    applicant = check_request(request, peer_ip=peer_ip)
    (outcome,) = await enroll_all(
        session, keyring, [applicant], mqtt=mqtt, now=now, lifetime=lifetime
    )
    if isinstance(outcome, EnrollmentRefused):
        raise outcome
    return outcome


async def enroll_all(
    session: AsyncSession,
    keyring: Keyring,
    applicants: Sequence[Applicant],
    *,
    mqtt: MqttAddress,
    now: datetime,
    lifetime: timedelta = AGENT_LIFETIME,
) -> list[Outcome]:
    """Enrol devices in one transaction; an outcome for each, in their order. The caller commits.

    What they share, a token's row and the commit, is paid for once. Of the refused nothing is
    stored, whatever becomes of the others.
    """
    return await EnrollmentBatch(session, keyring, applicants, mqtt, now, lifetime).run()


async def store_certificate(
    session: AsyncSession, agent_id: UUID, certificate: x509.Certificate, *, now: datetime
) -> None:
    """Store a certificate that was issued to an agent; every renewal does the same."""
    await session.execute(
        sa.insert(tables.certificates).values(
            serial=serial_text(certificate.serial_number),
            agent_id=agent_id,
            spki_sha256=key_sha256(certificate.public_key()),
            certificate=certificate_pem(certificate),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            issued_at=now,
            authority_key_id=authority_key_id(certificate),
        )
    )
