"""Renewing an agent's certificate: a new key for the same identity, asked for over MQTT."""

import hashlib
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.csr import parse_csr
from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import AgentIdentity, serial_text
from tensorguard.pki.issuer import certificate_pem
from tensorguard.protocol import envelope
from tensorguard.protocol.messages import CertificateIssued, CsrRequest
from tensorguard.services.enrollment.enrollment import store_certificate
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import AgentRenewalDenied, AgentRenewed
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.tables import agent_requests, agents

ANSWER_VALID_FOR = timedelta(hours=24)
# Near its end an answer is made anew: one that expires on the way would be refused.
REFRESHED_BEFORE = timedelta(minutes=5)
# An agent renews once in days. More than this is a loop or worse: it gets no certificates for it,
# fills no ledger, and is not even answered.
ANSWERS_AN_HOUR = 20
_Agent = sa.Row[Any, Any, Any, Any]  # id, fleet, status, move_to
ISSUED, REUSED = "issued", "request-id-reused"


async def renew(
    session: AsyncSession, keyring: Keyring, agent_id: UUID, request: CsrRequest, *, now: datetime
) -> bytes | None:
    """Answer a `csr` with a signed `certificate` envelope.

    None for an unknown agent, and for one that has been answered 20 times within the hour.
    The agent row is locked and its status checked in the transaction that issues, so that a renewal
    that races a revoke never ends with a valid certificate. The same request gets the same answer
    until shortly before it expires; a request_id that comes again with other content is denied.
    """
    agent = await _lock_agent(session, agent_id)
    if agent is None:
        return None
    sha256 = hashlib.sha256(f"{request.reason}\n{request.csr}".encode()).digest()
    known = await _find_answer(session, agent_id, request)
    denied = None if agent.status == "active" else f"agent-{agent.status}"
    if known is not None and known.request_sha256 != sha256:
        if known.outcome != REUSED:
            await _mark_reused(session, known)
            await _tell_denied(session, agent, request, REUSED, now)
        return _sign(keyring, agent_id, request, now, denied=REUSED)
    if known is not None and now < known.expires_at - REFRESHED_BEFORE:
        stale = known.outcome.startswith("agent-") if denied is None else known.outcome != denied
        if not stale:
            return bytes(known.envelope)
    if await _count_answers(session, agent_id, now) >= ANSWERS_AN_HOUR:
        return None
    certificate = None
    if denied is None and request.reason == "move" and agent.move_to is None:
        denied = "move-not-ordered"
    if denied is None:
        try:
            certificate = await _issue(session, keyring, agent, request, now)
        except PkiError as error:
            denied = error.code
    if denied is not None:
        await _tell_denied(session, agent, request, denied, now)
    answer = _sign(keyring, agent_id, request, now, certificate=certificate, denied=denied)
    await _store_answer(session, agent_id, request, sha256, denied or ISSUED, answer, now)
    return answer


async def _lock_agent(session: AsyncSession, agent_id: UUID) -> _Agent | None:
    query = sa.select(agents.c.id, agents.c.fleet, agents.c.status, agents.c.move_to)
    locked = await session.execute(query.where(agents.c.id == agent_id).with_for_update())
    return locked.one_or_none()


async def _find_answer(
    session: AsyncSession, agent_id: UUID, request: CsrRequest
) -> sa.Row[Any] | None:
    query = sa.select(agent_requests).where(
        agent_requests.c.agent_id == agent_id, agent_requests.c.request_id == request.request_id
    )
    return (await session.execute(query)).one_or_none()


async def _count_answers(session: AsyncSession, agent_id: UUID, now: datetime) -> int:
    query = sa.select(sa.func.count()).where(
        agent_requests.c.agent_id == agent_id,
        agent_requests.c.kind == "csr",
        agent_requests.c.answered_at > now - timedelta(hours=1),
    )
    return (await session.execute(query)).scalar_one()


async def _mark_reused(session: AsyncSession, known: sa.Row[Any]) -> None:
    await session.execute(
        sa.update(agent_requests)
        .where(
            agent_requests.c.agent_id == known.agent_id,
            agent_requests.c.request_id == known.request_id,
        )
        .values(outcome=REUSED)
    )


async def _tell_denied(
    session: AsyncSession, agent: _Agent, request: CsrRequest, reason: str, now: datetime
) -> None:
    event = AgentRenewalDenied(
        by=Actor("agent", str(agent.id)),
        fleet=agent.fleet,
        agent_id=agent.id,
        request_id=request.request_id,
        reason=reason,
    )
    await ledger.record(session, event, now=now)


async def _issue(
    session: AsyncSession, keyring: Keyring, agent: _Agent, request: CsrRequest, now: datetime
) -> str:
    """Issue and store a certificate and return it in PEM: for a move, one of the fleet ordered.

    Raises: PkiError.
    """
    public_key = parse_csr(request.csr)
    fleet = agent.move_to if request.reason == "move" else agent.fleet
    identity = AgentIdentity(keyring.trust_domain, fleet, agent.id)
    certificate = keyring.ca.issue_agent(public_key, identity, now)
    await store_certificate(session, agent.id, certificate, now=now)
    event = AgentRenewed(
        by=Actor("agent", str(agent.id)),
        fleet=agent.fleet,
        agent_id=agent.id,
        serial=serial_text(certificate.serial_number),
        reason=request.reason,
    )
    await ledger.record(session, event, now=now)
    return certificate_pem(certificate)


async def _store_answer(
    session: AsyncSession,
    agent_id: UUID,
    request: CsrRequest,
    sha256: bytes,
    outcome: str,
    answer: bytes,
    now: datetime,
) -> None:
    changed = {
        "request_sha256": sha256,
        "outcome": outcome,
        "envelope": answer,
        "answered_at": now,
        "expires_at": now + ANSWER_VALID_FOR,
    }
    await session.execute(
        insert(agent_requests)
        .values(agent_id=agent_id, request_id=request.request_id, kind="csr", **changed)
        .on_conflict_do_update(index_elements=["agent_id", "request_id"], set_=changed)
    )


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
