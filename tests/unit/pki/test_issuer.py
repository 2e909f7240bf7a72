from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tensorguard.pki.errors import BadIdentity, BadKey, CannotIssue
from tensorguard.pki.identity import ServiceIdentity
from tensorguard.pki.issuer import CertificateAuthority, certificate_pem, load_ca_certificate
from tests.unit.pki.builders import AGENT, NOW, TRUST_DOMAIN, openssl, p256

HUB = ServiceIdentity(TRUST_DOMAIN, "hub")


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return CertificateAuthority.create(TRUST_DOMAIN, NOW)


def write(path: Path, certificate: x509.Certificate) -> None:
    path.write_text(certificate_pem(certificate))


def test_openssl_verifies_an_agents_certificate_as_a_client_and_as_nothing_else(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    write(tmp_path / "ca.pem", ca.certificate)
    write(tmp_path / "leaf.pem", ca.issue_agent(p256().public_key(), AGENT, NOW))
    at = ("-attime", str(int(NOW.timestamp())))
    strict = ("verify", "-x509_strict", *at, "-CAfile", "ca.pem")

    assert "leaf.pem: OK" in openssl(*strict, "-purpose", "sslclient", "leaf.pem", cwd=tmp_path)
    openssl(*strict, "-purpose", "sslserver", "leaf.pem", cwd=tmp_path, expect=2)
    openssl(
        *("verify", "-attime", str(int((NOW + timedelta(days=8)).timestamp()))),
        *("-CAfile", "ca.pem", "leaf.pem"),
        cwd=tmp_path,
        expect=2,
    )


def test_openssl_verifies_a_services_certificate_for_its_hosts_only(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    write(tmp_path / "ca.pem", ca.certificate)
    leaf = ca.issue_service(
        p256().public_key(),
        HUB,
        NOW,
        dns_names=["localhost", "hub.example.org"],
        ip_addresses=[IPv4Address("127.0.0.1"), IPv6Address("::1")],
    )
    write(tmp_path / "leaf.pem", leaf)
    at = ("-attime", str(int(NOW.timestamp())))
    verify = ("verify", "-x509_strict", *at, "-purpose", "sslserver", "-CAfile", "ca.pem")

    for host in ("-verify_hostname", "hub.example.org"), ("-verify_ip", "127.0.0.1"):
        assert "leaf.pem: OK" in openssl(*verify, *host, "leaf.pem", cwd=tmp_path)
    openssl(*verify, "-verify_hostname", "example.org", "leaf.pem", cwd=tmp_path, expect=2)


def test_openssl_refuses_a_leaf_that_an_agent_signed(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    key = p256()
    agent = CertificateAuthority(ca.issue_agent(key.public_key(), AGENT, NOW), key)
    write(tmp_path / "ca.pem", ca.certificate)
    write(tmp_path / "agent.pem", agent.certificate)
    write(tmp_path / "leaf.pem", agent.issue_agent(p256().public_key(), AGENT, NOW))
    openssl(
        *("verify", "-attime", str(int(NOW.timestamp())), "-CAfile", "ca.pem"),
        *("-untrusted", "agent.pem", "leaf.pem"),
        cwd=tmp_path,
        expect=2,
    )


def test_serials_are_random_and_fit_rfc_5280(ca: CertificateAuthority) -> None:
    key = p256().public_key()
    serials = {ca.issue_agent(key, AGENT, NOW).serial_number for _ in range(50)}
    assert len(serials) == 50
    assert max(serials).bit_length() > 100
    assert all(0 < serial < 2**159 for serial in serials)


def test_a_certificate_is_never_valid_outside_its_cas_life() -> None:
    ca = CertificateAuthority.create(TRUST_DOMAIN, NOW, timedelta(days=1))
    leaf = ca.issue_agent(p256().public_key(), AGENT, NOW, timedelta(days=7))
    assert leaf.not_valid_before_utc >= ca.certificate.not_valid_before_utc
    assert leaf.not_valid_after_utc == ca.certificate.not_valid_after_utc


@pytest.mark.parametrize("off", [timedelta(days=-1), timedelta(days=1)])
def test_a_ca_outside_its_validity_issues_nothing(off: timedelta) -> None:
    ca = CertificateAuthority.create(TRUST_DOMAIN, NOW, timedelta(days=1))
    with pytest.raises(CannotIssue):
        ca.issue_agent(p256().public_key(), AGENT, NOW + off)


def test_a_key_of_another_curve_is_not_certified(ca: CertificateAuthority) -> None:
    with pytest.raises(CannotIssue):
        ca.issue_agent(ec.generate_private_key(ec.SECP384R1()).public_key(), AGENT, NOW)


def test_a_host_name_that_is_not_ascii_is_refused(ca: CertificateAuthority) -> None:
    with pytest.raises(CannotIssue):
        ca.issue_service(p256().public_key(), HUB, NOW, dns_names=["höst"])


def test_a_ca_survives_being_written_and_read_back(ca: CertificateAuthority) -> None:
    again = CertificateAuthority.load(ca.certificate_pem, ca.private_key_der())
    assert again.certificate == ca.certificate
    assert again.private_key_der() == ca.private_key_der()
    assert again.spki_sha256 == ca.spki_sha256


def test_a_key_of_another_ca_is_refused(ca: CertificateAuthority) -> None:
    other = CertificateAuthority.create(TRUST_DOMAIN, NOW)
    with pytest.raises(BadKey):
        CertificateAuthority.load(ca.certificate_pem, other.private_key_der())
    with pytest.raises(BadKey):
        CertificateAuthority.load("no PEM", other.private_key_der())


def test_the_ca_shows_no_secret_when_printed(ca: CertificateAuthority) -> None:
    assert "private_key" not in repr(ca)


def test_only_a_ca_of_the_trust_domain_loads_as_one(ca: CertificateAuthority) -> None:
    assert load_ca_certificate(ca.certificate_pem, TRUST_DOMAIN) == ca.certificate
    with pytest.raises(BadIdentity):
        load_ca_certificate(ca.certificate_pem, "other.example")
    leaf = ca.issue_agent(p256().public_key(), AGENT, NOW)
    with pytest.raises(BadKey):
        load_ca_certificate(certificate_pem(leaf), TRUST_DOMAIN)
    with pytest.raises(BadKey):
        load_ca_certificate("é", TRUST_DOMAIN)
