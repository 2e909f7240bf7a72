"""Enrolling many devices in one transaction: each step asks the database once for all of them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.identity import AgentIdentity, serial_text
from tensorguard.pki.issuer import certificate_pem
from tensorguard.protocol.messages import Enrolled, EnrollmentPending, MqttAddress
from tensorguard.services.enrollment import enrollment_rows as rows
from tensorguard.services.enrollment.applicants import Applicant
from tensorguard.services.enrollment.enrollment_rows import Certified, NewAgent, Owners
from tensorguard.services.enrollment.tokens import (
    check_network,
    count_pending,
    find_refusal,
    find_tokens,
    lock_tokens,
    take_uses,
)
from tensorguard.services.errors import (
    EnrollmentRefused,
    EnrollmentRejected,
    KeyAlreadyEnrolled,
    TokenExhausted,
    TooManyPending,
    UnknownToken,
)
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, AgentEnrolled, AgentPending, Event
from tensorguard.services.fleets.fleets import get_config_envelope
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.trust.trust import get_latest_bundle
from tensorguard.store.ids import new_id

POLL_AFTER_S: Final = 10
LONGEST_POLL_S: Final = 300
MOST_PENDING: Final = 1000
"""So many devices of one token may wait for an operator, who has to look at each."""
_ROUNDS: Final = 3
Answer = Enrolled | EnrollmentPending
Outcome = Enrolled | EnrollmentPending | EnrollmentRefused
_Row = sa.Row[Any]


@dataclass(slots=True)
class EnrollmentBatch:
    """Devices under way together. Applicants are named by their place in the sequence."""

    session: AsyncSession
    keyring: Keyring
    applicants: Sequence[Applicant]
    mqtt: MqttAddress
    now: datetime
    lifetime: timedelta
    _outcomes: dict[int, Outcome] = field(default_factory=dict)
    _tokens: dict[int, _Row] = field(default_factory=dict)
    _refusals: dict[int, EnrollmentRefused] = field(default_factory=dict)
    _configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _trust: dict[str, Any] | None = None

    async def run(self) -> list[Outcome]:
        """Return an outcome for each applicant."""
        self._check_tokens(await find_tokens(self.session, {one.token for one in self.applicants}))
        for number_of_round in range(_ROUNDS):
            left = [number for number in self._tokens if number not in self._outcomes]
            if not left:
                break
            owners = await self._find_owners(left)
            known = {number: owner for number in left if (owner := self._owner(number, owners))}
            # Agents are locked before any token is, as by whoever revokes an agent.
            await self._answer_again(known, may_lock=number_of_round == 0)
            await self._admit([number for number in left if number not in known], owners)
        busy = KeyAlreadyEnrolled("this key is being enrolled by another request")
        return [self._outcomes.get(number, busy) for number in range(len(self.applicants))]

    def _check_tokens(self, found: Mapping[str, _Row]) -> None:
        for number, applicant in enumerate(self.applicants):
            try:
                if applicant.token not in found:
                    raise UnknownToken("this enrollment token is not known")
                check_network(found[applicant.token], applicant.peer_ip)
                self._tokens[number] = found[applicant.token]
            except EnrollmentRefused as refusal:
                self._outcomes[number] = refusal

    async def _find_owners(self, numbers: Collection[int]) -> Owners:
        some = [self.applicants[number] for number in numbers]
        spkis = {one.spki_sha256 for one in some}
        return await rows.find_owners(self.session, spkis, {one.encryption_key for one in some})

    def _owner(self, number: int, owners: Owners) -> _Row | None:
        applicant = self.applicants[number]
        found = owners.by_spki.get(applicant.spki_sha256)
        return found or owners.by_encryption_key.get(applicant.encryption_key)

    # Devices whose keys are known

    async def _answer_again(self, known: Mapping[int, _Row], *, may_lock: bool) -> None:
        """Answer as before, or not at all."""
        active: dict[int, UUID] = {}
        for number, agent in known.items():
            if not self._is_same(number, agent):
                self._outcomes[number] = _taken()
            elif agent.status == "pending":
                self._outcomes[number] = pending_answer(agent.id, agent.created_at, self.now)
            elif agent.status == "rejected":
                reason = agent.status_reason or "-"
                self._outcomes[number] = EnrollmentRejected(f"this device was rejected: {reason}")
            elif agent.status != "active":
                self._outcomes[number] = _taken()
            else:
                active[number] = agent.id
        if not active:
            return
        found = await rows.list_certificates_of(self.session, set(active.values()))
        bare = {agent_id for agent_id in active.values() if agent_id not in found}
        if bare and may_lock:
            found |= await self._certify_approved(bare, active)
        for number, agent_id in active.items():
            self._outcomes[number] = await self._repeat(agent_id, found.get(agent_id, []))

    async def _certify_approved(
        self, bare: Collection[UUID], active: Mapping[int, UUID]
    ) -> dict[UUID, list[Certified]]:
        """Certify agents that an operator has approved: of two requests, one does it."""
        agents = await rows.lock_agents(self.session, bare)
        certified = await rows.list_certificates_of(self.session, bare)
        numbers = {agent_id: number for number, agent_id in active.items()}
        due = {
            numbers[agent.id]: agent.fleet
            for agent in agents.values()
            if agent.status == "active" and agent.id not in certified
        }
        await self._certify({number: (active[number], fleet) for number, fleet in due.items()})
        return await rows.list_certificates_of(self.session, bare)

    async def _repeat(self, agent_id: UUID, certificates: Sequence[Certified]) -> Outcome:
        if not certificates:
            # Approved or revoked this very moment.
            return EnrollmentPending(agent_id=agent_id, poll_after_s=POLL_AFTER_S)
        first = certificates[0]
        if len(certificates) > 1 or first.has_connected:
            return KeyAlreadyEnrolled("this key belongs to an agent that has connected already")
        return await self._enrolled(agent_id, first.fleet, first.certificate)

    def _is_same(self, number: int, agent: _Row) -> bool:
        applicant = self.applicants[number]
        return bool(
            agent.token_id == self._tokens[number].id
            and bytes(agent.enrolled_spki_sha256) == applicant.spki_sha256
            and bytes(agent.encryption_key) == applicant.encryption_key
        )

    # Devices whose keys are new

    async def _admit(self, numbers: Sequence[int], owners: Owners) -> None:
        """Make agents as far as tokens have uses.

        No outcome yet have those whose token refused or whose keys were taken meanwhile: either may
        be the twin of a request that is answered by now, and has to be answered the same.
        """
        seen: set[bytes] = set()
        first: list[int] = []
        for number in numbers:
            applicant = self.applicants[number]
            keys = {applicant.spki_sha256, applicant.encryption_key}
            if number in self._refusals:
                self._outcomes[number] = self._refusals[number]
            elif applicant.spki_sha256 in owners.certified:
                self._outcomes[number] = _taken()
            elif not keys & seen:
                first.append(number)
                seen |= keys
        new = await self._with_a_use(first) if first else {}
        if not new:
            return
        made = await rows.insert_agents(self.session, list(new.values()), now=self.now)
        new = {number: agent for number, agent in new.items() if agent.id in made}
        await take_uses(self.session, Counter(agent.token_id for agent in new.values()))
        await self._tell_pending([agent for agent in new.values() if agent.pending])
        active = {number: agent for number, agent in new.items() if not agent.pending}
        pems = await self._certify({n: (agent.id, agent.fleet) for n, agent in active.items()})
        for number, agent in new.items():
            self._outcomes[number] = (
                pending_answer(agent.id, self.now, self.now)
                if agent.pending
                else await self._enrolled(agent.id, agent.fleet, pems[agent.id])
            )

    async def _with_a_use(self, numbers: Sequence[int]) -> dict[int, NewAgent]:
        """The agents for which their tokens have a use left; the tokens stay locked."""
        tokens = await lock_tokens(self.session, {self._tokens[number].id for number in numbers})
        manual = [token.id for token in tokens.values() if token.approval == "manual"]
        waiting = await count_pending(self.session, manual) if manual else {}
        used: Counter[UUID] = Counter()
        found: dict[int, NewAgent] = {}
        for number in numbers:
            token = tokens[self._tokens[number].id]
            refusal = self._refusal(token, used[token.id], waiting.get(token.id, 0))
            if refusal is not None:
                self._refusals[number] = refusal
                continue
            used[token.id] += 1
            found[number] = self._new_agent(self.applicants[number], token)
        return found

    def _refusal(self, token: _Row, used: int, waiting: int) -> EnrollmentRefused | None:
        refusal = find_refusal(token, now=self.now)
        if refusal is None and used >= token.uses_left:
            return TokenExhausted("every use of this enrollment token is spent")
        if refusal is None and token.approval == "manual" and waiting + used >= MOST_PENDING:
            return TooManyPending(f"{MOST_PENDING} devices with this token wait for an operator")
        return refusal

    def _new_agent(self, applicant: Applicant, token: _Row) -> NewAgent:
        return NewAgent(
            id=new_id(),
            fleet=token.fleet,
            name=applicant.name,
            tags=token.tags,
            facts=applicant.facts,
            pending=token.approval == "manual",
            token_id=token.id,
            spki_sha256=applicant.spki_sha256,
            encryption_key=applicant.encryption_key,
        )

    # What is written and answered

    async def _certify(self, due: Mapping[int, tuple[UUID, str]]) -> dict[UUID, str]:
        """Issue first certificates to agents of fleets; return them in PEM, by agent."""
        issued = {}
        events: list[Event] = []
        for number, (agent_id, fleet) in due.items():
            identity = AgentIdentity(self.keyring.trust_domain, fleet, agent_id)
            public_key = self.applicants[number].public_key
            certificate = self.keyring.ca.issue_agent(public_key, identity, self.now, self.lifetime)
            issued[agent_id] = certificate
            events.append(
                AgentEnrolled(
                    by=Actor("agent", str(agent_id)),
                    fleet=fleet,
                    agent_id=agent_id,
                    token_id=self._tokens[number].id,
                    serial=serial_text(certificate.serial_number),
                )
            )
        await rows.insert_certificates(self.session, issued, now=self.now)
        await ledger.record_many(self.session, events, now=self.now)
        return {agent_id: certificate_pem(one) for agent_id, one in issued.items()}

    async def _tell_pending(self, agents: Sequence[NewAgent]) -> None:
        events = [
            AgentPending(
                by=Actor("agent", str(agent.id)),
                fleet=agent.fleet,
                agent_id=agent.id,
                token_id=agent.token_id,
            )
            for agent in agents
        ]
        await ledger.record_many(self.session, events, now=self.now)

    async def _enrolled(self, agent_id: UUID, fleet: str, certificate: str) -> Enrolled:
        if fleet not in self._configs:
            config = await get_config_envelope(self.session, self.keyring, fleet, now=self.now)
            self._configs[fleet] = msgspec.json.decode(config)
        if self._trust is None:
            bundle = await get_latest_bundle(self.session)
            self._trust = msgspec.json.decode(bundle.envelope)
        return Enrolled(
            agent_id=agent_id,
            fleet=fleet,
            certificate=certificate,
            mqtt=self.mqtt,
            config=self._configs[fleet],
            trust=self._trust,
        )


def pending_answer(agent_id: UUID, since: datetime, now: datetime) -> EnrollmentPending:
    """What a device is told that has waited for an operator since then."""
    # A tenth of the time that it waits: soon at first, and ten thousand do not become a load.
    tenth_s = round((now - since).total_seconds() / 10)
    poll_after_s = min(max(POLL_AFTER_S, tenth_s), LONGEST_POLL_S)
    return EnrollmentPending(agent_id=agent_id, poll_after_s=poll_after_s)


def _taken() -> KeyAlreadyEnrolled:
    return KeyAlreadyEnrolled("this key belongs to an agent already")
