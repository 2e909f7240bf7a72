"""Renewing certificates over MQTT: once per request, and never for an agent that is out."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tensorguard.pki.identity import serial_text
from tensorguard.pki.keys import Ed25519Verifier
from tensorguard.protocol.envelope import open_signed
from tensorguard.protocol.messages import CertificateIssued, CsrRequest
from tensorguard.protocol.topics import DownKind, UpKind
from tensorguard.services.certificates.renewal import renew
from tensorguard.services.evidence.event import Actor
from tensorguard.services.revocation.revocations import revoke_agent
from tensorguard.store import tables
from tests.integration.hub.builders import FLEET, Hub, uplink

OPERATOR = Actor("user", "operator")
ISSUED = "SELECT count(*) FROM certificates"


def make_csr() -> tuple[str, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode(), key


def ask(csr: str | None = None, **changes: Any) -> CsrRequest:
    known: dict[str, Any] = {
        "request_id": uuid4(),
        "csr": csr or make_csr()[0],
        "reason": "renewal",
    }
    return CsrRequest(**(known | changes))


async def answer(hub: Hub, agent_id: UUID, request: CsrRequest) -> bytes | None:
    async with hub.sessions.begin() as session:
        return await renew(session, hub.keyring, agent_id, request, now=hub.clock.now)


def opened(hub: Hub, agent_id: UUID, raw: bytes | None) -> CertificateIssued:
    """Open an answer as the agent does."""
    assert raw is not None
    signer = hub.keyring.signer("certificate")
    return open_signed(
        raw,
        CertificateIssued,
        keys={signer.kid: Ed25519Verifier(signer.public_raw)},
        trust_domain="example.org",
        now=hub.clock.now,
        agent_id=agent_id,
        fleet=FLEET,
    )


async def test_an_agent_gets_a_certificate_for_its_identity_and_its_new_key(hub: Hub) -> None:
    agent_id = await hub.add_agent()
    csr, key = make_csr()
    request = ask(csr)
    await hub.take(
        uplink(
            UpKind.CSR,
            agent_id,
            hub.clock.now,
            request_id=str(request.request_id),
            csr=csr,
            reason="renewal",
        )
    )
    [sent] = hub.front.received(DownKind.CERTIFICATE, agent_id)
    message = opened(hub, agent_id, sent)
    assert (message.request_id, message.denied) == (request.request_id, None)
    assert message.certificate is not None
    certificate = x509.load_pem_x509_certificate(message.certificate.encode())
    assert certificate.public_key() == key.public_key()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://example.org/fleet/{FLEET}/agent/{agent_id}"
    ]
    [entry] = await hub.entries("agent.renewed")
    assert entry["details"]["serial"] == serial_text(certificate.serial_number)
    stored = await hub.rows("SELECT serial, agent_id FROM certificates")
    assert [tuple(row) for row in stored] == [(entry["details"]["serial"], agent_id)]


async def test_the_same_request_gets_the_same_answer_and_uses_nothing_more(hub: Hub) -> None:
    agent_id, request = await hub.add_agent(), ask()
    first = await answer(hub, agent_id, request)
    for _ in range(30):
        hub.clock.advance(minutes=1)
        assert await answer(hub, agent_id, request) == first
    assert await hub.value(ISSUED) == 1
    assert len(await hub.entries("agent.renewed")) == 1


async def test_the_same_request_twice_at_once_gets_one_certificate(hub: Hub) -> None:
    agent_id, request = await hub.add_agent(), ask()
    answers = await asyncio.gather(*(answer(hub, agent_id, request) for _ in range(5)))
    assert len(set(answers)) == 1
    assert await hub.value(ISSUED) == 1


async def test_an_answer_that_is_about_to_expire_is_made_anew(hub: Hub) -> None:
    agent_id, request = await hub.add_agent(), ask()
    first = opened(hub, agent_id, await answer(hub, agent_id, request))
    hub.clock.now = first.expires_at - timedelta(minutes=4)
    second = opened(hub, agent_id, await answer(hub, agent_id, request))
    assert second.expires_at > first.expires_at
    assert second.certificate not in (None, first.certificate)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reason": "move"}, "move-not-ordered"),
        ({"csr": "-----BEGIN nonsense"}, None),
        ({"csr": " "}, None),
    ],
    ids=str,
)
async def test_a_bad_request_is_denied_with_a_reason_and_told_once(
    hub: Hub, changes: dict[str, Any], reason: str | None
) -> None:
    agent_id, request = await hub.add_agent(), ask(**changes)
    answers = [opened(hub, agent_id, await answer(hub, agent_id, request)) for _ in range(3)]
    assert {message.certificate for message in answers} == {None}
    [entry] = await hub.entries("agent.renewal-denied")
    assert {message.denied for message in answers} == {entry["details"]["reason"]}
    assert reason in (None, entry["details"]["reason"])
    assert await hub.value(ISSUED) == 0


async def test_a_request_id_with_other_content_is_denied_and_the_first_answer_is_not_lost(
    hub: Hub,
) -> None:
    agent_id, request = await hub.add_agent(), ask()
    first = await answer(hub, agent_id, request)
    other = ask(request_id=request.request_id)
    for _ in range(3):
        message = opened(hub, agent_id, await answer(hub, agent_id, other))
        assert (message.certificate, message.denied) == (None, "request-id-reused")
    assert await answer(hub, agent_id, request) == first
    assert len(await hub.entries("agent.renewal-denied")) == 1
    assert await hub.value(ISSUED) == 1


@pytest.mark.parametrize("status", ["revoked", "pending", "rejected"])
async def test_an_agent_that_is_not_active_is_denied(hub: Hub, status: str) -> None:
    agent_id = await hub.add_agent(status=status)
    message = opened(hub, agent_id, await answer(hub, agent_id, ask()))
    assert (message.certificate, message.denied) == (None, f"agent-{status}")
    assert await hub.value(ISSUED) == 0


async def test_an_agent_is_denied_after_a_revoke_even_what_it_was_given_before(hub: Hub) -> None:
    agent_id, request = await hub.add_agent(), ask()
    assert opened(hub, agent_id, await answer(hub, agent_id, request)).certificate
    await revoke(hub, agent_id)
    again = opened(hub, agent_id, await answer(hub, agent_id, request))
    assert (again.certificate, again.denied) == (None, "agent-revoked")


async def test_an_agent_that_was_pending_is_answered_once_it_is_active(hub: Hub) -> None:
    agent_id, request = await hub.add_agent(status="pending"), ask()
    assert opened(hub, agent_id, await answer(hub, agent_id, request)).denied == "agent-pending"
    async with hub.sessions.begin() as session:
        await session.execute(sa.update(tables.agents).values(status="active"))
    assert opened(hub, agent_id, await answer(hub, agent_id, request)).certificate


async def test_an_unknown_agent_gets_no_answer(hub: Hub) -> None:
    assert await answer(hub, uuid4(), ask()) is None


@pytest.mark.parametrize("changes", [{}, {"reason": "move"}], ids=["good", "bad"])
async def test_a_storm_of_requests_makes_twenty_answers_an_hour(
    hub: Hub, changes: dict[str, Any]
) -> None:
    agent_id, csr = await hub.add_agent(), make_csr()[0]
    answers = [await answer(hub, agent_id, ask(csr, **changes)) for _ in range(30)]
    assert len([one for one in answers if one is not None]) == 20
    told = await hub.entries("agent.renewed") + await hub.entries("agent.renewal-denied")
    assert len(told) == 20
    hub.clock.advance(hours=1)
    assert await answer(hub, agent_id, ask(csr, **changes)) is not None


async def revoke(hub: Hub, agent_id: UUID) -> None:
    async with hub.sessions.begin() as session:
        await revoke_agent(session, agent_id, reason="lost", by=OPERATOR, now=hub.clock.now)


async def test_a_renewal_that_races_a_revoke_never_issues_after_it(hub: Hub) -> None:
    csr = make_csr()[0]
    issued_before_revoke = 0
    for attempt in range(50):
        agent_id = await hub.add_agent()
        racers = [answer(hub, agent_id, ask(csr)), revoke(hub, agent_id)]
        if attempt % 2:
            racers.reverse()
        await asyncio.gather(*racers)
        # The ledger's ids are made under the agent row's lock: their order is what happened.
        rows = await hub.rows(
            "SELECT type FROM ledger_events WHERE subject_id = :id ORDER BY id", id=str(agent_id)
        )
        happened = [row.type for row in rows]
        assert happened in (
            ["agent.renewed", "agent.revoked"],
            ["agent.revoked", "agent.renewal-denied"],
        )
        issued_before_revoke += happened[0] == "agent.renewed"
        assert opened(hub, agent_id, await answer(hub, agent_id, ask(csr))).denied
    assert await hub.value(ISSUED) == issued_before_revoke
    assert 0 < issued_before_revoke < 50
