"""Renewing an agent's certificate: a new key for the same identity, asked for over MQTT."""

import hashlib
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.csr import parse_csr
from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import AgentIdentity, serial_text
from tensorguard.pki.issuer import certificate_pem
from tensorguard.protocol import envelope
from tensorguard.protocol.messages import CertificateIssued, CsrRequest
from tensorguard.services import ledger
from tensorguard.services.enrollment import store_certificate
from tensorguard.services.event import Actor
from tensorguard.services.events import AgentRenewalDenied, AgentRenewed
from tensorguard.services.keyring import Keyring
from tensorguard.store.tables import agent_requests, agents

ANSWER_VALID_FOR = timedelta(hours=24)


async def renew(
    session: AsyncSession, keyring: Keyring, agent_id: UUID, request: CsrRequest, *, now: datetime
) -> bytes | None:
    """Answer a `csr` with a signed `certificate` envelope, or None for an unknown agent.

    The agent row is locked and its status checked in the transaction that issues, so that a renewal
    that races a revoke never ends with a valid certificate. The same request gets the same answer;
    a request_id that comes again with other content is denied.
    """
    row = (
        await session.execute(
            sa.select(agents.c.fleet, agents.c.status)
            .where(agents.c.id == agent_id)
            .with_for_update()
        )
    ).one_or_none()
    if row is None:
        return None
    sha256 = hashlib.sha256(f"{request.reason}\n{request.csr}".encode()).digest()
    known = (
        await session.execute(
            sa.select(agent_requests.c.request_sha256, agent_requests.c.envelope).where(
                agent_requests.c.agent_id == agent_id,
                agent_requests.c.request_id == request.request_id,
            )
        )
    ).one_or_none()
    if row.status == "active" and known is not None and known.request_sha256 == sha256:
        return bytes(known.envelope)
    denied = _find_denial(row.status, request, repeated=known is not None)
    if denied is None:
        try:
            return await _issue(session, keyring, agent_id, row.fleet, request, sha256, now)
        except PkiError as error:
            denied = error.code
    by = Actor("agent", str(agent_id))
    event = AgentRenewalDenied(
        by=by, fleet=row.fleet, agent_id=agent_id, request_id=request.request_id, reason=denied
    )
    await ledger.record(session, event, now=now)
    return _sign(keyring, agent_id, request, now, denied=denied)


def _find_denial(status: str, request: CsrRequest, *, repeated: bool) -> str | None:
    if status != "active":
        return f"agent-{status}"
    if repeated:
        return "request-id-reused"
    return None if request.reason == "renewal" else "move-not-ordered"


async def _issue(
    session: AsyncSession,
    keyring: Keyring,
    agent_id: UUID,
    fleet: str,
    request: CsrRequest,
    sha256: bytes,
    now: datetime,
) -> bytes:
    public_key = parse_csr(request.csr)
    identity = AgentIdentity(keyring.trust_domain, fleet, agent_id)
    certificate = keyring.ca.issue_agent(public_key, identity, now)
    serial = serial_text(certificate.serial_number)
    await store_certificate(session, agent_id, certificate, now=now)
    pem = certificate_pem(certificate)
    answer = _sign(keyring, agent_id, request, now, certificate=pem)
    await session.execute(
        sa.insert(agent_requests).values(
            agent_id=agent_id,
            request_id=request.request_id,
            kind="csr",
            request_sha256=sha256,
            outcome="issued",
            envelope=answer,
            answered_at=now,
            expires_at=now + ANSWER_VALID_FOR,
        )
    )
    event = AgentRenewed(
        by=Actor("agent", str(agent_id)), fleet=fleet, agent_id=agent_id, serial=serial
    )
    await ledger.record(session, event, now=now)
    return answer


def _sign(
    keyring: Keyring,
    agent_id: UUID,
    request: CsrRequest,
    now: datetime,
    *,
    certificate: str | None = None,
    denied: str | None = None,
) -> bytes:
    message = CertificateIssued(
        trust_domain=keyring.trust_domain,
        issued_at=now,
        expires_at=now + ANSWER_VALID_FOR,
        agent_id=agent_id,
        request_id=request.request_id,
        certificate=certificate,
        denied=denied,
    )
    return envelope.sign(message, [keyring.signer("certificate")])
