"""A new certificate takes over from the old one at its first connect, whoever was away then."""

import asyncio
import os
import ssl
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.runtime import keys
from hub.settling import NewConnections, Settler
from tensorguard.pki.keys import Ed25519Verifier
from tensorguard.protocol.envelope import open_signed
from tensorguard.protocol.messages import CertificateIssued, CsrRequest
from tensorguard.services.certificates.renewal import renew
from tensorguard.services.evidence.event import Actor
from tensorguard.services.revocation.revocations import revoke_agent
from tests.integration.broker.wire import Wire
from tests.integration.identity.stack import Running, Stack, each_engine

RACES = 200 if os.environ.get("TG_TEST_DEEP") else 20


async def connack(stack: Stack, pem: Path, agent_id: UUID) -> int | None:
    """Try to connect with a certificate as a foreign client; None where TLS was refused."""
    context = ssl.create_default_context(cadata=stack.keyring.ca.certificate_pem)
    context.load_cert_chain(pem)
    try:
        wire = await Wire.open(("127.0.0.1", stack.settings.mqtt.port), context)
        code = await wire.connect(str(agent_id))
    except (OSError, EOFError, asyncio.IncompleteReadError):
        return None
    wire.abort()
    return code


def copy_of(running: Running, to: Path) -> Path:
    to.write_bytes(running.directory.get("agent.pem"))
    return to


@each_engine
async def test_after_a_renewal_the_old_certificate_is_denied_everywhere(
    stack: Stack, tmp_path: Path
) -> None:
    fleet = await stack.new_fleet()
    running = await stack.new_agent(fleet)
    old = copy_of(running, tmp_path / "old.pem")
    stack.renew_now(running)
    new, before = await stack.until_superseded(running.agent_id, 1)
    assert new["superseded_at"] is None
    assert new["first_connected_at"] is not None
    assert before["superseded_at"] >= new["first_connected_at"]
    serial = f"{x509.load_pem_x509_certificate(old.read_bytes()).serial_number:x}"
    assert before["serial"] == serial
    await stack.until(lambda: _is_denied(stack, old, running.agent_id), "the old one is denied")
    # The try with the old certificate may have taken the session over before it was denied.
    await stack.until_presence(running.agent_id, "online")
    [event] = await stack.api.events("agent.certificate-superseded")
    assert (event["serials"], event["by_serial"]) == ([serial], new["serial"])
    rows = await stack.rows(
        "SELECT serial, reason, r.not_after = c.not_after AS until_its_end"
        " FROM revocations r JOIN certificates c USING (serial)"
    )
    assert [tuple(row) for row in rows] == [(serial, "superseded", True)]


async def _is_denied(stack: Stack, pem: Path, agent_id: UUID) -> bool:
    return await connack(stack, pem, agent_id) == 5


async def test_settling_twice_and_by_two_at_once_denies_once(stack: Stack) -> None:
    fleet = await stack.new_fleet()
    running = await stack.new_agent(fleet)
    stack.renew_now(running)
    await stack.until_superseded(running.agent_id, 1)
    settlers = [
        Settler(stack.sessions, stack.keyring, NewConnections(), stack.clock) for _ in range(3)
    ]
    assert await asyncio.gather(*(settler.step() for settler in settlers)) == [0, 0, 0]
    assert len(await stack.rows("SELECT 1 FROM revocations")) == 1
    assert len(await stack.api.events("agent.certificate-superseded")) == 1


@each_engine
async def test_a_connect_that_no_hub_heard_of_supersedes_when_one_comes(parts: Stack) -> None:
    fleet = await parts.new_fleet()
    async with parts.running_front():
        async with parts.running_hub():
            running = await parts.new_agent(fleet)
        # Answered while nobody listens to the connect: by hand, as a hub that dies just then.
        parts.renew_now(running)
        request = await parts.until(lambda: _open_request(running), "a request is made")
        async with parts.sessions.begin() as session:
            answer = await renew(
                session, parts.keyring, running.agent_id, request, now=parts.clock()
            )
        assert answer is not None
        own = f"tg/v1/{fleet}/{running.agent_id}/down/certificate"
        await parts.say_down(own, answer)
        await parts.until(lambda: _promoted(running), "the new certificate has connected")
        assert await parts.rows("SELECT 1 FROM certificates WHERE superseded_at IS NOT NULL") == []
        async with parts.running_hub():
            new, _ = await parts.until_superseded(running.agent_id, 1)
        assert new["first_connected_at"] is not None
        await running.stop()
    assert len(await parts.rows("SELECT 1 FROM revocations")) == 1


async def _open_request(running: Running) -> CsrRequest | None:
    renewal = running.directory.get_state().renewal
    if renewal is None or renewal.csr is None:
        return None
    return CsrRequest(request_id=renewal.request_id, csr=renewal.csr, reason="renewal")


async def _promoted(running: Running) -> bool:
    path = running.directory.path
    return running.directory.get_state().renewal is None and not (path / "next.pem").exists()


@each_engine
async def test_a_copy_with_the_old_certificate_is_disconnected_when_the_new_one_comes(
    stack: Stack, tmp_path: Path
) -> None:
    fleet = await stack.new_fleet()
    directory, agent_id = await stack.enroll(fleet)
    context = ssl.create_default_context(cadata=stack.keyring.ca.certificate_pem)
    context.load_cert_chain(directory.path / "agent.pem")
    wire = await Wire.open(("127.0.0.1", stack.settings.mqtt.port), context)
    assert await wire.connect(str(agent_id)) == 0
    key = ec.generate_private_key(ec.SECP256R1())
    request = CsrRequest(request_id=uuid4(), csr=keys.make_csr(key), reason="renewal")
    async with stack.sessions.begin() as session:
        assert await renew(session, stack.keyring, agent_id, request, now=stack.clock())
    # The new one is heard of from another front, so that nothing takes this session over.
    rows = await stack.rows("SELECT serial FROM certificates ORDER BY issued_at DESC")
    async with stack.sessions.begin() as session:
        await session.execute(
            sa.text("UPDATE certificates SET first_connected_at = now() WHERE serial = :serial"),
            {"serial": rows[0].serial},
        )
    assert stack.work is not None
    stack.work.new_connections.add([agent_id])
    assert await wire.hear() is None
    wire.abort()


@each_engine
@pytest.mark.timeout(900)
async def test_a_renewal_that_races_a_revoke_never_leaves_a_certificate_that_a_front_admits(
    stack: Stack, tmp_path: Path
) -> None:
    fleet = await stack.new_fleet()
    issued = 0
    for attempt in range(RACES):
        directory, agent_id = await stack.enroll(fleet)
        key = ec.generate_private_key(ec.SECP256R1())
        request = CsrRequest(request_id=uuid4(), csr=keys.make_csr(key), reason="renewal")
        racers = [_renew(stack, agent_id, request), _revoke(stack, agent_id)]
        if attempt % 2:
            racers.reverse()
        results = await asyncio.gather(*racers)
        pem = next(one for one in results if one is not None)
        for held in (directory.get("agent.pem"), pem and keys.private_pem(key) + pem):
            if held:
                file = tmp_path / "held.pem"
                file.write_bytes(held)
                await stack.until(
                    lambda file=file, agent_id=agent_id: _is_denied(stack, file, agent_id),
                    "a certificate of a revoked agent is admitted",
                )
        issued += bool(pem)
        rows = await stack.rows(
            "SELECT count(*) AS n FROM certificates WHERE agent_id = :id", id=agent_id
        )
        assert rows[0].n == 1 + bool(pem)
    assert 0 < issued < RACES


async def _renew(stack: Stack, agent_id: UUID, request: CsrRequest) -> bytes:
    async with stack.sessions.begin() as session:
        raw = await renew(session, stack.keyring, agent_id, request, now=stack.clock())
    assert raw is not None
    signer = stack.keyring.signer("certificate")
    message = open_signed(
        raw,
        CertificateIssued,
        keys={signer.kid: Ed25519Verifier(signer.public_raw)},
        trust_domain="tensorguard.local",
        now=stack.clock(),
        agent_id=agent_id,
    )
    return (message.certificate or "").encode()


async def _revoke(stack: Stack, agent_id: UUID) -> None:
    async with stack.sessions.begin() as session:
        await revoke_agent(
            session, agent_id, reason="lost", by=Actor("user", "operator"), now=stack.clock()
        )
