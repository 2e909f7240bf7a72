"""Certificates of manufacturers, made by OpenSSL: whom they let in, and whom not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tensorguard.pki.errors import (
    BadCertificate,
    CertificateExpired,
    CertificateNotYetValid,
    PkiError,
    WrongIssuer,
)
from tensorguard.pki.identity import DeviceIdentity, key_sha256
from tensorguard.pki.manufacturer import parse_ca, verify_device, verify_proof
from tests.manufacturer import CA_END, MadeDevice, Manufacturer, openssl

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
A_CA, SIGNS = "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"
P256 = ("EC", "-pkeyopt", "ec_paramgen_curve:P-256")
CLIENT = ("basicConstraints=CA:FALSE", "extendedKeyUsage=clientAuth")


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Manufacturer:
    return Manufacturer(tmp_path_factory.mktemp("maker"))


@pytest.fixture(scope="module")
def ca(maker: Manufacturer) -> x509.Certificate:
    return parse_ca(maker.pem, NOW)


@pytest.mark.parametrize(
    "key",
    [
        P256,
        ("EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
        ("RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    ],
)
def test_a_ca_of_a_usual_key_lets_its_devices_in(tmp_path: Path, key: tuple[str, ...]) -> None:
    maker = Manufacturer(tmp_path, key=key)
    ca = parse_ca(maker.pem, NOW)
    device = maker.device("SN-7")
    peer = verify_device(device.der, [ca], NOW)
    assert isinstance(peer.identity, DeviceIdentity)
    assert peer.identity.serial == "SN-7"
    assert peer.identity.certificate_sha256 == device.client_id
    assert peer.identity.issuer_spki_sha256 == key_sha256(ca.public_key())
    assert peer.not_after == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key", "extensions", "why"),
    [
        (("RSA", "-pkeyopt", "rsa_keygen_bits:1024"), (A_CA, SIGNS), "P-256, P-384 or RSA"),
        (("EC", "-pkeyopt", "ec_paramgen_curve:P-521"), (A_CA, SIGNS), "P-256, P-384 or RSA"),
        (("ED25519",), (A_CA, SIGNS), "P-256, P-384 or RSA"),
        (P256, (A_CA,), "without"),
        (P256, (SIGNS,), "without"),
        (P256, (A_CA, "keyUsage=critical,cRLSign"), "not that of a CA"),
        (P256, ("basicConstraints=critical,CA:FALSE", SIGNS), "not that of a CA"),
    ],
)
def test_what_is_not_a_ca_with_a_good_key_is_none(
    tmp_path: Path, key: tuple[str, ...], extensions: tuple[str, ...], why: str
) -> None:
    with pytest.raises(BadCertificate, match=why):
        parse_ca(Manufacturer(tmp_path, key=key, extensions=extensions).pem, NOW)


def test_a_ca_outside_its_time_is_none(maker: Manufacturer) -> None:
    with pytest.raises(CertificateExpired):
        parse_ca(maker.pem, CA_END)
    with pytest.raises(CertificateNotYetValid):
        parse_ca(maker.pem, NOW - timedelta(days=365 * 10))


@pytest.mark.parametrize(
    "pem", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_what_is_no_pem_is_refused(pem: str) -> None:
    with pytest.raises(BadCertificate):
        parse_ca(pem, NOW)


def test_two_certificates_or_a_megabyte_are_refused(maker: Manufacturer) -> None:
    for pem in (maker.pem * 2, maker.pem + " " * 2**20):
        with pytest.raises(BadCertificate):
            parse_ca(pem, NOW)


@pytest.mark.parametrize(
    ("serial", "extensions", "why"),
    [
        ("SN-1", ("basicConstraints=critical,CA:TRUE",), "identifies no device"),
        ("SN-1", ("keyUsage=critical,keyAgreement",), "not for signatures"),
        ("SN-1", ("extendedKeyUsage=serverAuth",), "client authentication"),
        (
            "SN-1",
            ("subjectAltName=URI:spiffe://test.example/fleet/a/agent/0195a1b2-c3d4-7000-8000-1",),
            "no identities of a platform",
        ),
        ("SN-1", ("subjectAltName=URI:SPIFFE://test.example/service/hub",), "no identities"),
        ("   ", (), "serialNumber"),
    ],
)
def test_a_genuine_certificate_of_another_kind_identifies_no_device(
    maker: Manufacturer, ca: x509.Certificate, serial: str, extensions: tuple[str, ...], why: str
) -> None:
    device = maker.device(serial, extensions=extensions or CLIENT)
    with pytest.raises(BadCertificate, match=why):
        verify_device(device.der, [ca], NOW)


@pytest.mark.parametrize("subject", ["/CN=x", "/serialNumber=a/serialNumber=b"])
def test_a_device_has_exactly_one_serial_number(
    maker: Manufacturer, ca: x509.Certificate, subject: str
) -> None:
    with pytest.raises(BadCertificate, match="exactly one printable serialNumber"):
        verify_device(maker.device(subject=subject).der, [ca], NOW)


@pytest.mark.parametrize(
    "extensions",
    [
        CLIENT,
        ("keyUsage=critical,digitalSignature,keyEncipherment",),
        ("subjectAltName=URI:urn:dev:ops:1,DNS:device.example",),
        ("certificatePolicies=1.3.6.1.4.1.99999.1",),
    ],
)
def test_what_makers_write_beside_it_does_not_matter(
    maker: Manufacturer, ca: x509.Certificate, extensions: tuple[str, ...]
) -> None:
    assert verify_device(maker.device("S 1.2:x", extensions=extensions).der, [ca], NOW)


def test_a_weak_signature_is_not_believed(maker: Manufacturer, ca: x509.Certificate) -> None:
    with pytest.raises(PkiError):
        verify_device(maker.device(digest="sha1").der, [ca], NOW)


def test_time_counts_for_devices_and_for_their_ca(
    maker: Manufacturer, ca: x509.Certificate
) -> None:
    expired = maker.device(end=NOW - timedelta(days=1))
    with pytest.raises(CertificateExpired):
        verify_device(expired.der, [ca], NOW)
    early = maker.device(start=NOW + timedelta(days=1))
    with pytest.raises(CertificateNotYetValid):
        verify_device(early.der, [ca], NOW)
    with pytest.raises(WrongIssuer):
        verify_device(maker.device().der, [ca], CA_END)


def test_another_ca_or_a_device_signs_nobody_in(
    tmp_path: Path, maker: Manufacturer, ca: x509.Certificate
) -> None:
    with pytest.raises(WrongIssuer):
        verify_device(Manufacturer(tmp_path / "other").device().der, [ca], NOW)
    with pytest.raises(WrongIssuer):
        verify_device(signed_by(maker.device(), tmp_path), [ca], NOW)
    with pytest.raises(WrongIssuer):
        verify_device(maker.device().der, [], NOW)


def signed_by(device: MadeDevice, folder: Path) -> bytes:
    """A certificate that a device's own key has signed."""
    openssl(
        *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", folder / "k", "-out", folder / "csr", "-subj", "/serialNumber=S"),
    )
    openssl(
        *("x509", "-req", "-in", folder / "csr", "-CA", device.certificate_path),
        *("-CAkey", device.key_path, "-CAcreateserial", "-out", folder / "crt", "-outform", "DER"),
    )
    return (folder / "crt").read_bytes()


def test_a_proof_is_the_challenge_signed_by_the_ca_itself(
    tmp_path: Path, maker: Manufacturer, ca: x509.Certificate
) -> None:
    challenge = "ab" * 24
    verify_proof(maker.proof(challenge), ca, challenge, NOW)
    with pytest.raises(BadCertificate, match="not the challenge"):
        verify_proof(maker.proof("cd" * 24), ca, challenge, NOW)
    with pytest.raises(BadCertificate, match="not the challenge"):
        verify_proof(maker.device(subject=f"/CN=x/CN={challenge}").pem, ca, challenge, NOW)
    with pytest.raises(WrongIssuer):
        verify_proof(Manufacturer(tmp_path).proof(challenge), ca, challenge, NOW)
    late = maker.device(subject=f"/CN={challenge}", end=NOW - timedelta(days=1))
    with pytest.raises(CertificateExpired):
        verify_proof(late.pem, ca, challenge, NOW)
