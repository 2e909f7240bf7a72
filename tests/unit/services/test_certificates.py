"""TLS with a service's own certificate, against a real peer on a real socket."""

import asyncio
import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tensorguard.pki.errors import CannotIssue
from tensorguard.pki.identity import AgentIdentity, ServiceIdentity, load_certificate, verify_peer
from tensorguard.pki.issuer import CertificateAuthority
from tensorguard.services.certificates.certificates import ServiceCertificate, split_hosts
from tests.patience import PATIENCE_S
from tests.unit.pki.builders import AGENT_ID, TRUST_DOMAIN, der, openssl, p256

HUB = ServiceIdentity(TRUST_DOMAIN, "hub")
BROKER = ServiceIdentity(TRUST_DOMAIN, "broker")
HOSTS = ["localhost", "127.0.0.1"]
WEEK = timedelta(days=7)


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)  # OpenSSL looks at the real time

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ca(clock: Clock) -> CertificateAuthority:
    return CertificateAuthority.create(TRUST_DOMAIN, clock.now - timedelta(days=30))


@asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncIterator[tuple[int, list[bytes | None]]]:
    """A server that tells each client the common name it saw, and keeps the clients' leaves."""
    seen: list[bytes | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        seen.append(tls.getpeercert(binary_form=True))
        writer.write(b"hello\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


async def connect(port: int, context: ssl.SSLContext, host: str = "localhost") -> x509.Certificate:
    """Connect, hear the server out, and give back the certificate it showed."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=host
        )
        try:
            if await reader.readline() != b"hello\n":
                raise ConnectionResetError
            leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return load_certificate(leaf)
        finally:
            writer.close()


REFUSED = (ssl.SSLError, ConnectionError)


async def test_two_services_prove_to_one_another_who_they_are(
    ca: CertificateAuthority, clock: Clock
) -> None:
    broker = ServiceCertificate(ca, BROKER, hosts=HOSTS, clock=clock)
    hub = ServiceCertificate(ca, HUB, clock=clock)
    async with listening(broker.server_context([ca.certificate])) as (port, seen):
        for host in HOSTS:
            leaf = await connect(port, hub.client_context([ca.certificate]), host)
            assert leaf == broker.certificate
    assert seen[0] is not None
    assert verify_peer(seen[0], [ca.certificate], TRUST_DOMAIN, clock.now).identity == HUB


async def test_a_client_without_a_certificate_of_ours_is_turned_away(
    ca: CertificateAuthority, clock: Clock
) -> None:
    broker = ServiceCertificate(ca, BROKER, hosts=HOSTS, clock=clock)
    strangers_ca = CertificateAuthority.create(TRUST_DOMAIN, clock.now)
    stranger = ServiceCertificate(strangers_ca, HUB, clock=clock)
    nobody = ssl.create_default_context(cadata=ca.certificate_pem)
    async with listening(broker.server_context([ca.certificate])) as (port, seen):
        for context in (nobody, stranger.client_context([ca.certificate])):
            with pytest.raises(REFUSED):
                await connect(port, context)
    assert seen == []


async def test_a_server_for_devices_asks_for_no_certificate(
    ca: CertificateAuthority, clock: Clock
) -> None:
    api = ServiceCertificate(ca, ServiceIdentity(TRUST_DOMAIN, "api"), hosts=HOSTS, clock=clock)
    pinned = ssl.create_default_context(cadata=ca.certificate_pem)
    async with listening(api.server_context()) as (port, seen):
        assert await connect(port, pinned) == api.certificate
    assert seen == [None]


async def test_a_client_refuses_a_server_of_another_name_or_ca(
    ca: CertificateAuthority, clock: Clock
) -> None:
    broker = ServiceCertificate(ca, BROKER, hosts=HOSTS, clock=clock)
    hub = ServiceCertificate(ca, HUB, clock=clock)
    other = CertificateAuthority.create(TRUST_DOMAIN, clock.now)
    async with listening(broker.server_context([ca.certificate])) as (port, _):
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(port, hub.client_context([ca.certificate]), "example.org")
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(port, hub.client_context([other.certificate]))


async def test_an_agent_cannot_pose_as_a_server(
    ca: CertificateAuthority, clock: Clock, tmp_path: Path
) -> None:
    key = p256()
    agent = ca.issue_agent(key.public_key(), AgentIdentity(TRUST_DOMAIN, "f", AGENT_ID), clock.now)
    pem = tmp_path / "agent.pem"
    write_pair(pem, key, agent)
    rogue = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    rogue.load_cert_chain(pem)
    hub = ServiceCertificate(ca, HUB, clock=clock)
    context = hub.client_context([ca.certificate])
    context.check_hostname = False
    async with listening(rogue) as (port, _):
        with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
            await connect(port, context)


def write_pair(path: Path, key: object, certificate: x509.Certificate) -> None:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined]  # any private key
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))


async def test_connections_after_a_renewal_see_the_new_certificate(
    ca: CertificateAuthority, clock: Clock
) -> None:
    broker = ServiceCertificate(ca, BROKER, hosts=HOSTS, clock=clock)
    hub = ServiceCertificate(ca, HUB, clock=clock)
    client = hub.client_context([ca.certificate])
    async with listening(broker.server_context([ca.certificate])) as (port, seen):
        first = await connect(port, client)
        broker.renew()
        hub.renew()
        second = await connect(port, client)
    assert second == broker.certificate != first
    assert second.public_key() != first.public_key()
    assert seen[1] == der(hub.certificate) != seen[0]


async def test_a_certificate_renews_itself_at_two_thirds_of_its_life(
    ca: CertificateAuthority, clock: Clock
) -> None:
    own = ServiceCertificate(ca, HUB, lifetime=timedelta(days=3), clock=clock)
    first, stop = own.certificate, asyncio.Event()
    assert own.renew_at == clock.now + timedelta(days=2)
    clock.now += timedelta(days=2)

    task = asyncio.create_task(own.keep_renewed(stop))
    async with asyncio.timeout(PATIENCE_S):
        while own.certificate == first:  # noqa: ASYNC110 - the renewal tells nobody of itself
            await asyncio.sleep(0)
    stop.set()
    await task

    assert own.renew_at == clock.now + timedelta(days=2)


async def test_renewing_stops_at_once_when_told_to(ca: CertificateAuthority, clock: Clock) -> None:
    own = ServiceCertificate(ca, HUB, clock=clock)
    first, stop = own.certificate, asyncio.Event()
    stop.set()
    async with asyncio.timeout(PATIENCE_S):
        await own.keep_renewed(stop)
    assert own.certificate == first


def test_a_failed_renewal_keeps_the_present_certificate(
    ca: CertificateAuthority, clock: Clock
) -> None:
    own = ServiceCertificate(ca, HUB, clock=clock)
    first = own.certificate
    clock.now += timedelta(days=36_500)
    with pytest.raises(CannotIssue):
        own.renew()
    assert own.certificate == first


def test_no_key_is_left_in_a_file(
    ca: CertificateAuthority, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ServiceCertificate(ca, HUB, clock=clock).server_context()
    monkeypatch.delattr(os, "memfd_create", raising=False)  # as on macOS
    ServiceCertificate(ca, HUB, clock=clock).server_context()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
async def test_openssl_is_refused_below_tls_1_2(
    ca: CertificateAuthority, clock: Clock, tmp_path: Path, version: str
) -> None:
    api = ServiceCertificate(ca, HUB, hosts=HOSTS, clock=clock)
    (tmp_path / "ca.pem").write_text(ca.certificate_pem)
    async with listening(api.server_context()) as (port, seen):
        command = ("s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", "ca.pem")
        old = ("-cipher", "ALL:@SECLEVEL=0", version)
        await asyncio.to_thread(openssl, *command, *old, cwd=tmp_path, expect=1)
        assert seen == []
        said = await asyncio.to_thread(
            openssl, *command, "-verify_return_error", "-tls1_2", cwd=tmp_path
        )
    assert "Verify return code: 0 (ok)" in said


def test_hosts_are_told_apart_and_named_once() -> None:
    names, addresses = split_hosts(["localhost", "127.0.0.1", "::1", "localhost", "hub.example"])
    assert names == ["localhost", "hub.example"]
    assert addresses == [IPv4Address("127.0.0.1"), IPv6Address("::1")]
