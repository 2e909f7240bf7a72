"""Enrollment: a device with a join string becomes an agent, all at once or not at all."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from cryptography import x509
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.issuer import AGENT_LIFETIME
from tensorguard.protocol.messages import EnrollRequest, MqttAddress
from tensorguard.services.enrollment.applicants import Applicant, check_request
from tensorguard.services.enrollment.applicants import check_facts as check_facts
from tensorguard.services.enrollment.enrollment_batch import Answer, EnrollmentBatch, Outcome
from tensorguard.services.enrollment.enrollment_rows import insert_certificates
from tensorguard.services.errors import EnrollmentRefused
from tensorguard.services.keys.keyring import Keyring


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
    await insert_certificates(session, {agent_id: certificate}, now=now)
