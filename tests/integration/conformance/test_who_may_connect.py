"""Who gets in: nobody whom the platform CA has not certified, and nobody under a foreign name."""

import asyncio
import contextlib
import ssl
import warnings
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from uuid6 import uuid7

from broker.denyset import DenySet, Revocation
from tensorguard.pki.identity import serial_text
from tensorguard.pki.issuer import CertificateAuthority
from tests.integration.broker.certificates import TRUST_DOMAIN, AgentCredentials, Platform
from tests.integration.broker.conftest import run_program
from tests.integration.broker.wire import connect_packet, packet
from tests.integration.conformance.conftest import AnySite, OpenSite
from tests.patience import PATIENCE_S

IDENTIFIER_REJECTED, UNAVAILABLE, NOT_AUTHORIZED = 2, 3, 5


async def mosquitto_pub(
    site: AnySite, credentials: AgentCredentials | None, *more: str, client_id: str | None = None
) -> str:
    """Publish a heartbeat with a foreign client; return how that ended."""
    _, port = site.address
    agent = credentials or site.platform.agent()
    files = ["--cert", agent.certificate_path, "--key", agent.key_path] if credentials else []
    return await run_program(
        *("mosquitto_pub", "-h", "localhost", "-p", str(port), "--cafile", site.platform.ca_path),
        *files,
        *("-i", client_id or agent.client_id, "-q", "1", "-V", "mqttv311"),
        *("-t", agent.up("heartbeat"), "-m", "{}"),
        *more,
    )


async def assert_kept_out(site: AnySite, credentials: AgentCredentials | None) -> None:
    """The client fails, and a witness hears nothing of it."""
    witness = site.platform.agent()
    hub = await site.hub()
    sentinel = await site.agent(witness)
    said = await mosquitto_pub(site, credentials)
    assert not said.startswith("exit 0"), said
    assert await hub.quiet(witness, sentinel) == []
    await site.present(1)


async def failed_handshake(site: AnySite, reason: str) -> None:
    """Wait until the front has counted one, for this reason."""
    name = "tensorguard_broker_handshakes_failed_total"
    await site.until(lambda: site.counted(name, reason=reason) == 1, f"{reason} is counted")


async def test_an_enrolled_agent_publishes_with_mosquitto(
    site: AnySite, platform: Platform
) -> None:
    agent, hub = platform.agent(), await site.hub()
    assert (await mosquitto_pub(site, agent)).startswith("exit 0")
    assert (await hub.hear()).topic == agent.up("heartbeat")


async def test_nobody_connects_without_a_certificate(site: AnySite) -> None:
    await assert_kept_out(site, None)
    await failed_handshake(site, "no-certificate")


async def test_nobody_connects_with_a_certificate_of_another_ca(
    site: AnySite, platform: Platform
) -> None:
    other = CertificateAuthority.create(TRUST_DOMAIN, datetime.now(UTC))
    await assert_kept_out(site, platform.agent(authority=other))


async def test_an_agents_certificate_signs_nobody_in(site: AnySite, platform: Platform) -> None:
    agent = platform.agent()
    forged = platform.forged(agent.private_key, agent.certificate.subject)
    # The chain is sent along, as an attacker would.
    forged.certificate_path.write_bytes(forged.certificate_pem + agent.certificate_pem)
    await assert_kept_out(site, forged)


@pytest.mark.parametrize("chain", ["alone", "with its CA", "with its CA and the platform's"])
@pytest.mark.parametrize("subject", ["its own", "the platform CA's"])
async def test_a_manufacturers_ca_speaks_for_no_agent(
    site: AnySite, platform: Platform, chain: str, subject: str
) -> None:
    victim = platform.agent()
    domain = TRUST_DOMAIN if subject == "the platform CA's" else "maker.example"
    maker = CertificateAuthority.create(domain, datetime.now(UTC) - timedelta(days=1))
    forged = platform.forged(maker.private_key, maker.certificate.subject, victim=victim)
    pem = forged.certificate_pem
    if chain != "alone":
        pem += maker.certificate_pem.encode()
    if chain == "with its CA and the platform's":
        pem += platform.authority.certificate_pem.encode()
    forged.certificate_path.write_bytes(pem)
    wire = await site.agent(victim)
    said = await mosquitto_pub(site, forged)
    assert not said.startswith("exit 0"), said
    assert await wire.ping(), "the victim was disturbed"
    await site.present(1)


async def test_an_agents_certificate_signs_nobody_in_under_a_victims_name(
    site: AnySite, platform: Platform
) -> None:
    victim, agent = platform.agent(), platform.agent()
    forged = platform.forged(agent.private_key, agent.certificate.subject, victim=victim)
    forged.certificate_path.write_bytes(forged.certificate_pem + agent.certificate_pem)
    wire = await site.agent(victim)
    said = await mosquitto_pub(site, forged)
    assert not said.startswith("exit 0"), said
    assert await wire.ping()
    await site.present(1)


async def test_an_expired_certificate_connects_nobody(site: AnySite, platform: Platform) -> None:
    await assert_kept_out(
        site, platform.agent(issued=timedelta(days=-2), lifetime=timedelta(days=1))
    )
    await failed_handshake(site, "expired")


async def test_a_certificate_that_is_not_yet_valid_connects_nobody(
    site: AnySite, platform: Platform
) -> None:
    await assert_kept_out(site, platform.agent(issued=timedelta(days=1)))
    await failed_handshake(site, "not-yet-valid")


async def test_a_server_certificate_connects_nobody(site: AnySite, platform: Platform) -> None:
    authority = platform.authority
    forged = platform.forged(
        authority.private_key,
        authority.certificate.subject,
        usages=(ExtendedKeyUsageOID.SERVER_AUTH,),
    )
    await assert_kept_out(site, forged)
    await failed_handshake(site, "wrong-purpose")


@pytest.mark.parametrize(
    "uris",
    [
        ("spiffe://elsewhere.example/fleet/hospital-a/agent/{id}",),
        ("spiffe://test.example/fleet/hospital-a/agent/{id}", "spiffe://test.example/service/hub"),
        ("https://test.example/",),
        ("spiffe://test.example/service/api",),
    ],
)
async def test_a_genuine_signature_under_a_foreign_name_connects_nobody(
    site: AnySite, platform: Platform, uris: tuple[str, ...]
) -> None:
    authority = platform.authority
    named = tuple(uri.format(id=uuid7()) for uri in uris)
    forged = platform.forged(authority.private_key, authority.certificate.subject, uris=named)
    await assert_kept_out(site, forged)


async def test_another_agents_client_id_is_refused_and_disturbs_nobody(
    site: AnySite, platform: Platform
) -> None:
    victim, attacker = platform.agent(), platform.agent()
    hub = await site.hub()
    wire = await site.agent(victim, will=(victim.up("will"), b"{}"))
    said = await mosquitto_pub(site, attacker, client_id=victim.client_id)
    assert said.startswith(f"exit {site.refused(IDENTIFIER_REJECTED)}"), said
    assert await wire.ping()
    assert await hub.quiet(victim, wire) == []
    report = await hub.report("denied")
    assert (report.operation, report.reason) == ("connect", "foreign-client-id")
    assert (report.agent_id, report.count) == (attacker.agent_id, 1)


@pytest.mark.parametrize("client_id", ["", "hub", "hub-1", "#", "x" * 3000])
async def test_no_other_client_id_will_do(
    site: AnySite, platform: Platform, client_id: str
) -> None:
    wire = await site.open(platform.agent())
    assert await wire.connect(client_id) == site.refused(IDENTIFIER_REJECTED)


async def test_a_revoked_agent_is_refused_and_counted(
    open_site: OpenSite, platform: Platform
) -> None:
    agent = platform.agent()
    denied = DenySet(stale_after=None)
    denied.add(Revocation(1, agent.agent_id, None))
    async with open_site(denied=denied) as site:
        hub = await site.hub()
        said = await mosquitto_pub(site, agent)
        assert said.startswith(f"exit {NOT_AUTHORIZED}"), said
        report = await hub.report("denied")
        assert (report.reason, report.agent_id) == ("revoked", agent.agent_id)


async def test_a_superseded_certificate_is_refused_and_its_successor_is_not(
    open_site: OpenSite, platform: Platform
) -> None:
    old = platform.agent()
    renewed = platform.agent(agent_id=old.agent_id)
    denied = DenySet(stale_after=None)
    denied.add(Revocation(1, None, serial_text(old.certificate.serial_number)))
    async with open_site(denied=denied) as site:
        wire = await site.open(old)
        assert await wire.connect(old.client_id) == NOT_AUTHORIZED
        await site.agent(renewed)


async def test_a_stale_front_refuses_newcomers_and_keeps_who_is_there(
    open_site: OpenSite, platform: Platform
) -> None:
    now = 0.0
    denied = DenySet(stale_after=timedelta(seconds=5), monotonic=lambda: now)
    denied.confirm()
    async with open_site(denied=denied) as site:
        present, newcomer = platform.agent(), platform.agent()
        wire = await site.agent(present)
        now = 5.1
        late = await site.open(newcomer)
        assert await late.connect(newcomer.client_id) == site.refused(UNAVAILABLE)
        assert await wire.ping()
        denied.confirm()
        await connected_by_trying(site, newcomer)


async def connected_by_trying(site: AnySite, newcomer: AgentCredentials) -> None:
    """Try as agents do: a front that was stale takes a moment before it answers again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            wire = await site.open(newcomer)
            code = await wire.connect(newcomer.client_id)
            if code == 0:
                return
            assert code == site.refused(UNAVAILABLE)


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
async def test_old_tls_is_refused(site: AnySite, platform: Platform, version: str) -> None:
    agent = platform.agent()
    said = await openssl_s_client(site, agent, version)
    assert "Cipher is (NONE)" in said


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_an_old_client_hello_gets_no_server_hello(
    site: AnySite, version: ssl.TLSVersion
) -> None:
    hello = client_hello(version)
    assert hello[9:11] == {"TLSv1": b"\x03\x01", "TLSv1_1": b"\x03\x02"}[version.name]
    reader, writer = await asyncio.open_connection(*site.address)
    writer.write(hello)
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    assert not answer.startswith(b"\x16"), "a handshake record"
    await failed_handshake(site, "tls-version")


def client_hello(version: ssl.TLSVersion) -> bytes:
    """The first bytes of a client that knows nothing newer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    sent = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return sent.read()


@pytest.mark.parametrize("client_id", ["victim", "stranger"])
async def test_without_tls_nothing_is_heard(
    site: AnySite, platform: Platform, client_id: str
) -> None:
    victim = platform.agent()
    wire = await site.agent(victim)
    reader, writer = await asyncio.open_connection(*site.address)
    writer.write(connect_packet(victim.client_id if client_id == "victim" else client_id))
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    assert not answer.startswith(b"\x20"), "CONNACK in the clear"
    assert await wire.ping()
    await site.present(1)


async def test_tls_1_2_is_enough(site: AnySite, platform: Platform) -> None:
    said = await openssl_s_client(site, platform.agent(), "-tls1_2")
    assert "Verify return code: 0 (ok)" in said
    assert "Cipher is (NONE)" not in said


async def openssl_s_client(site: AnySite, agent: AgentCredentials, version: str) -> str:
    host, port = site.address
    return await run_program(
        *("openssl", "s_client", "-connect", f"{host}:{port}", version),
        # Debian's default security level refuses old versions on the client's side already.
        *("-cipher", "DEFAULT:@SECLEVEL=0"),
        *("-CAfile", platform_path(site), "-cert", agent.certificate_path, "-key", agent.key_path),
    )


def platform_path(site: AnySite) -> str:
    return str(site.platform.ca_path)


async def test_the_first_packet_is_connect_or_nothing(site: AnySite, platform: Platform) -> None:
    wire = await site.open(platform.agent())
    await wire.say(packet(0xC0))
    assert await wire.hear() is None


@pytest.mark.parametrize("protocol", [("MQTT", 5), ("MQIsdp", 3), ("MQTT", 3)])
async def test_only_mqtt_3_1_1_is_spoken(
    site: AnySite, platform: Platform, protocol: tuple[str, int]
) -> None:
    agent = platform.agent()
    wire = await site.open(agent)
    await wire.say(connect_packet(agent.client_id, protocol=protocol))
    answer = await wire.hear()
    # NATS does not answer what calls itself by another name at all.
    assert answer.body[1] == 1 if answer is not None else protocol[0] != "MQTT"


async def test_a_will_in_another_agents_name_never_speaks_and_is_reported(
    site: AnySite, platform: Platform
) -> None:
    victim, attacker = platform.agent(), platform.agent()
    hub = await site.hub()
    witness, wire = await site.agent(victim), await site.open(attacker)
    code = await wire.connect(attacker.client_id, will=(victim.up("will"), b"forged"))
    # NATS admits it, and does not let the will speak.
    assert code == (NOT_AUTHORIZED if site.engine == "embedded" else 0)
    wire.abort()
    report = await hub.report("denied")
    assert (report.operation, report.agent_id) == ("will", attacker.agent_id)
    assert await hub.quiet(victim, witness) == []
