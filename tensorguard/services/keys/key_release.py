"""Key release: a package's DEK, sealed for one agent that may have it now, and nobody else."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.keys import kid_of
from tensorguard.protocol import envelope
from tensorguard.protocol.messages import Grant, KeyRequest
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import SYSTEM, Event, GrantDenied, GrantIssued
from tensorguard.services.keys import fleet_deks
from tensorguard.services.keys.dek_cache import DekCache, DekPlace, DenialLimit
from tensorguard.services.keys.kek_trouble import TAKEN_AWAY, note_trouble
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.trust.publisher_standing import find_objection_code
from tensorguard.store.candidates import QUARANTINE_BELOW
from tensorguard.store.engine import SessionMaker
from tensorguard.tgsp.grants import seal_grant
from tensorguard.vault.errors import Unavailable, VaultError
from tensorguard.vault.provider import KeyProvider

log = structlog.get_logger(__name__)

GRANT_LIFETIME: Final = timedelta(minutes=10)
_PREPARE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """What goes back, and what is written of it; `event` None: it was written before."""

    request: KeyRequest
    agent_id: UUID
    outcome: str
    envelope: bytes
    expires_at: datetime
    event: Event | None


class _Refusal(Exception):
    """The reason, in words that the agent gets, why there is no grant."""


class KeyRelease:
    """Answers key requests in one process; holds opened DEKs for a few minutes."""

    def __init__(self, keyring: Keyring, kek: KeyProvider) -> None:
        self._keyring = keyring
        self._kek = kek
        self._deks = DekCache()
        self._denials = DenialLimit()

    async def prepare(
        self,
        sessions: SessionMaker,
        requests: Sequence[tuple[UUID, KeyRequest]],
        *,
        now: datetime,
    ) -> None:
        """Open the DEKs that `answer` will need, outside of any transaction that locks agents.

        A provider that does not answer holds nobody up for more than a second; its requests are
        left out by `answer` until it has.
        """
        if not requests:
            return

        async def open_dek(place: DekPlace) -> bytes:
            return await self._open_alone(sessions, place, now)

        async with sessions() as session:
            values = {**_arrays(requests), "taken": sorted(TAKEN_AWAY)}
            rows = await session.execute(_PLACES, values)
            places = [DekPlace(bytes(row.digest), row.kek_id, row.fleet) for row in rows]
        await self._deks.prepare(places, open_dek, now, most_s=_PREPARE_S)

    async def close(self) -> None:
        """Wipe every DEK."""
        await self._deks.close()

    async def answer(
        self,
        session: AsyncSession,
        requests: Sequence[tuple[UUID, KeyRequest]],
        *,
        now: datetime,
    ) -> list[tuple[UUID, bytes]]:
        """Return (agent id, signed answer) for each request: a grant, or why there is none.

        Locks the agents' rows: an agent cannot be revoked between the check and the commit. The
        same request gets the same bytes until they expire. A request is left out, and repeated by
        its agent, while the key provider is away. Publish the answers after the commit.
        """
        unique = {(agent_id, one.request_id): (agent_id, one) for agent_id, one in requests}
        ordered = [unique[place] for place in sorted(unique)]
        if not ordered:
            return []
        facts = await _read(session, _FACTS, ordered)
        known = await _read(session, _KNOWN, ordered)
        answers: list[_Answer] = []
        for agent_id, request in ordered:
            place = (agent_id, request.request_id)
            if place not in facts:
                continue  # no such agent: no front lets such a certificate in
            try:
                answer = await self._answer(session, facts[place], request, known.get(place), now)
            except VaultError as error:
                log.warning("grant_postponed", code=error.code, digest=request.package_digest)
                continue
            denied = isinstance(answer.event, GrantDenied)
            if not denied or self._denials.allows(agent_id, now):
                answers.append(answer)
        await _store(session, [answer for answer in answers if answer.event is not None], now)
        return [(answer.agent_id, answer.envelope) for answer in answers]

    async def _answer(
        self,
        session: AsyncSession,
        fact: sa.RowMapping,
        request: KeyRequest,
        stored: sa.RowMapping | None,
        now: datetime,
    ) -> _Answer:
        try:
            _check(fact, now)
            if stored is None or stored["expires_at"] <= now:
                dek = await self._open(session, fact, now)
                return _grant(self._keyring, dek, fact, request, now)
            if bytes(stored["request_sha256"]) != _digest(request):
                raise _Refusal("request-id-reused")
            return _repeat(fact, request, stored)
        except _Refusal as refusal:
            if stored is not None and stored["outcome"] == f"denied:{refusal}":
                return _repeat(fact, request, stored)
            return _deny(self._keyring, fact, request, str(refusal), now)

    async def _open(self, session: AsyncSession, fact: sa.RowMapping, now: datetime) -> bytes:
        own = fact["kek_id"] is not None
        place = DekPlace(bytes(fact["digest"]), fact["kek_id"], fact["fleet"] if own else None)

        async def open_dek(place: DekPlace) -> bytes:
            return await fleet_deks.open_dek(session, self._kek, place.digest, place.fleet, now=now)

        try:
            if self._deks.is_opening(place):
                raise Unavailable("the key provider has not answered yet")
            return await self._deks.get(place, open_dek, now)
        except VaultError as error:
            if error.retriable:
                raise
            raise _Refusal(error.code) from None

    async def _open_alone(self, sessions: SessionMaker, place: DekPlace, now: datetime) -> bytes:
        """Open a DEK in a transaction of its own; what ails a fleet's KEK is stored with it."""
        try:
            async with sessions.begin() as session:
                return await fleet_deks.open_dek(
                    session, self._kek, place.digest, place.fleet, now=now
                )
        except VaultError as error:
            if place.kek_id is not None and error.code in TAKEN_AWAY:
                async with sessions.begin() as session:
                    await note_trouble(session, place.kek_id, error, now=now)
            raise


def _check(fact: sa.RowMapping, now: datetime) -> None:
    """Go through what vault.md asks for. Raises: _Refusal."""
    if fact["status"] != "active":
        raise _Refusal(f"agent-{fact['status']}")
    if fact["trust_score"] < QUARANTINE_BELOW:
        raise _Refusal("quarantined")
    if fact["digest"] is None:
        raise _Refusal("not-assigned")
    if fact["withdrawn_at"] is not None:
        raise _Refusal("package-withdrawn")
    if now < fact["not_before"]:
        raise _Refusal("not-yet-valid")
    if fact["not_after"] is not None and now > fact["not_after"]:
        raise _Refusal("expired")
    objection = find_objection_code(
        not_before=fact["publisher_not_before"],
        not_after=fact["publisher_not_after"],
        revoked_at=fact["publisher_revoked_at"],
        names=fact["publisher_names"],
        package=fact["package"],
        now=now,
    )
    if objection is not None:
        raise _Refusal(objection)
    if fact["kek_expires_at"] is not None and fact["kek_expires_at"] <= now:
        raise _Refusal("key-material-expired")
    if fact["kek_trouble"] in TAKEN_AWAY:
        raise _Refusal(fact["kek_trouble"])


def _grant(
    keyring: Keyring, dek: bytes, fact: sa.RowMapping, request: KeyRequest, now: datetime
) -> _Answer:
    until = min(now + GRANT_LIFETIME, fact["publisher_not_after"])
    if fact["not_after"] is not None:
        until = min(until, fact["not_after"])
    until = until.replace(microsecond=0)
    raw = bytes(fact["encryption_key"])
    kid, exp = kid_of(raw), int(until.timestamp())
    # Looked at when the agent enrolled: to do so again costs half of what sealing does.
    recipient = X25519PublicKey.from_public_bytes(raw)
    sealed = seal_grant(dek, recipient=recipient, manifest_digest=bytes(fact["digest"]), exp=exp)
    grant = _empty(keyring, fact, request, now, until)
    grant = msgspec.structs.replace(grant, kid=kid, exp=exp, sealed=sealed)
    event = GrantIssued(
        by=SYSTEM,
        fleet=fact["fleet"],
        agent_id=fact["agent_id"],
        request_id=request.request_id,
        package_digest=request.package_digest,
        kid=kid,
        expires_at=until,
        deployment_id=fact["deployment_id"],
    )
    signed = envelope.sign(grant, [keyring.signer("grant")])
    return _Answer(request, fact["agent_id"], "issued", signed, until, event)


def _deny(
    keyring: Keyring, fact: sa.RowMapping, request: KeyRequest, reason: str, now: datetime
) -> _Answer:
    until = (now + GRANT_LIFETIME).replace(microsecond=0)
    grant = msgspec.structs.replace(_empty(keyring, fact, request, now, until), denied=reason)
    event = GrantDenied(
        by=SYSTEM,
        fleet=fact["fleet"],
        agent_id=fact["agent_id"],
        request_id=request.request_id,
        package_digest=request.package_digest,
        reason=reason,
        deployment_id=request.deployment_id,
    )
    signed = envelope.sign(grant, [keyring.signer("grant")])
    return _Answer(request, fact["agent_id"], f"denied:{reason}", signed, until, event)


def _repeat(fact: sa.RowMapping, request: KeyRequest, stored: sa.RowMapping) -> _Answer:
    return _Answer(
        request,
        fact["agent_id"],
        stored["outcome"],
        bytes(stored["envelope"]),
        stored["expires_at"],
        None,
    )


def _empty(
    keyring: Keyring, fact: sa.RowMapping, request: KeyRequest, now: datetime, until: datetime
) -> Grant:
    return Grant(
        trust_domain=keyring.trust_domain,
        issued_at=now,
        expires_at=until,
        agent_id=fact["agent_id"],
        request_id=request.request_id,
        package_digest=request.package_digest,
    )


def _digest(request: KeyRequest) -> bytes:
    text = f"key-request\n{request.package_digest}\n{request.deployment_id}"
    return hashlib.sha256(text.encode()).digest()


async def _read(
    session: AsyncSession, query: sa.TextClause, requests: Sequence[tuple[UUID, KeyRequest]]
) -> dict[tuple[UUID, UUID], sa.RowMapping]:
    rows = await session.execute(query, _arrays(requests))
    return {(row["agent_id"], row["request_id"]): row for row in rows.mappings()}


def _arrays(requests: Sequence[tuple[UUID, KeyRequest]]) -> dict[str, list[Any]]:
    return {
        "agents": [agent_id for agent_id, _ in requests],
        "requests": [request.request_id for _, request in requests],
        "digests": [bytes.fromhex(request.package_digest) for _, request in requests],
    }


async def _store(session: AsyncSession, answers: Sequence[_Answer], now: datetime) -> None:
    if not answers:
        return
    await session.execute(
        _STORE,
        {
            "agents": [answer.agent_id for answer in answers],
            "requests": [answer.request.request_id for answer in answers],
            "hashes": [_digest(answer.request) for answer in answers],
            "outcomes": [answer.outcome for answer in answers],
            "envelopes": [answer.envelope for answer in answers],
            "expiries": [answer.expires_at for answer in answers],
            "now": now,
        },
    )
    events = [answer.event for answer in answers if answer.event is not None]
    await ledger.record_many(session, events, now=now)


_FACTS = sa.text("""
    SELECT agent.id AS agent_id, request.request_id, agent.fleet, agent.status,
           agent.encryption_key, coalesce(status.trust_score, 100) AS trust_score,
           document.deployment_id, package.digest, package.not_before, package.not_after,
           package.withdrawn_at, package.name AS package,
           publisher.names AS publisher_names, publisher.not_before AS publisher_not_before,
           publisher.not_after AS publisher_not_after, publisher.revoked_at AS publisher_revoked_at,
           kek.id AS kek_id, kek.trouble_code AS kek_trouble, kek.expires_at AS kek_expires_at
    FROM unnest(CAST(:agents AS uuid[]), CAST(:requests AS uuid[]), CAST(:digests AS bytea[]))
         AS request (agent_id, request_id, digest)
    JOIN agents AS agent ON agent.id = request.agent_id
    LEFT JOIN agent_status AS status ON status.agent_id = agent.id
    LEFT JOIN agent_desired AS document
           ON document.agent_id = agent.id AND document.package_digest = request.digest
    LEFT JOIN packages AS package ON package.digest = document.package_digest
    LEFT JOIN publishers AS publisher ON publisher.kid = package.publisher_kid
    LEFT JOIN keks AS kek ON kek.fleet = agent.fleet AND kek.state = 'active'
    ORDER BY agent.id
    FOR SHARE OF agent
""")
# The DEKs that may have to be opened: of assigned packages, for fleets that still have their key.
_PLACES = sa.text("""
    SELECT DISTINCT document.package_digest AS digest, kek.id AS kek_id, kek.fleet
    FROM unnest(CAST(:agents AS uuid[]), CAST(:requests AS uuid[]), CAST(:digests AS bytea[]))
         AS request (agent_id, request_id, digest)
    JOIN agents AS agent ON agent.id = request.agent_id AND agent.status = 'active'
    JOIN agent_desired AS document
         ON document.agent_id = agent.id AND document.package_digest = request.digest
    LEFT JOIN keks AS kek ON kek.fleet = agent.fleet AND kek.state = 'active'
    WHERE kek.trouble_code IS NULL OR NOT kek.trouble_code = ANY(CAST(:taken AS text[]))
""")
_KNOWN = sa.text("""
    SELECT row.agent_id, row.request_id, row.request_sha256, row.outcome, row.envelope,
           row.expires_at
    FROM unnest(CAST(:agents AS uuid[]), CAST(:requests AS uuid[]), CAST(:digests AS bytea[]))
         AS request (agent_id, request_id, digest)
    JOIN agent_requests AS row USING (agent_id, request_id)
""")
# A request id that is used for something else keeps its first answer.
_STORE = sa.text("""
    INSERT INTO agent_requests AS row (agent_id, request_id, kind, request_sha256, outcome,
                                       envelope, answered_at, expires_at)
    SELECT agent_id, request_id, 'key-request', request_sha256, outcome, envelope,
           CAST(:now AS timestamptz), expires_at
    FROM unnest(CAST(:agents AS uuid[]), CAST(:requests AS uuid[]), CAST(:hashes AS bytea[]),
                CAST(:outcomes AS text[]), CAST(:envelopes AS bytea[]),
                CAST(:expiries AS timestamptz[]))
         AS new (agent_id, request_id, request_sha256, outcome, envelope, expires_at)
    ON CONFLICT (agent_id, request_id) DO UPDATE SET
        request_sha256 = excluded.request_sha256, outcome = excluded.outcome,
        envelope = excluded.envelope, answered_at = excluded.answered_at,
        expires_at = excluded.expires_at
    WHERE row.kind = 'key-request' AND row.expires_at <= CAST(:now AS timestamptz)
""")
