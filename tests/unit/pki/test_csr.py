import base64
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from tensorguard.pki.csr import parse_csr
from tensorguard.pki.errors import (
    CsrBadSignature,
    CsrMalformed,
    CsrRefused,
    CsrTooLarge,
    CsrWrongKey,
)
from tensorguard.pki.identity import identity_from_certificate
from tensorguard.pki.issuer import CertificateAuthority
from tests.unit.pki.builders import AGENT, NOW, TRUST_DOMAIN, openssl, p256


def csr_pem(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    *extensions: x509.ExtensionType,
    common_name: str = "ignored",
) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.PEM).decode()


def openssl_csr(tmp_path: Path, *key: str, subject: str = "/CN=device", extra: str = "") -> str:
    (tmp_path / "req.cnf").write_text(
        f"[req]\ndistinguished_name=dn\nstring_mask=utf8only\n{extra}\n[dn]\n"
    )
    openssl("genpkey", *key, "-out", "key.pem", cwd=tmp_path)
    openssl(
        *("req", "-new", "-sha256", "-key", "key.pem", "-config", "req.cnf"),
        *("-subj", subject, "-out", "csr.pem"),
        cwd=tmp_path,
    )
    return (tmp_path / "csr.pem").read_text()


P256 = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


def test_the_key_of_an_openssl_request_is_read(tmp_path: Path) -> None:
    public_key = parse_csr(openssl_csr(tmp_path, *P256))
    expected = openssl("pkey", "-in", "key.pem", "-pubout", cwd=tmp_path)
    assert (
        public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        == expected
    )


def test_names_that_a_request_asks_for_do_not_reach_the_certificate(tmp_path: Path) -> None:
    pem = openssl_csr(
        tmp_path,
        *P256,
        subject="/CN=00000000-0000-7000-8000-000000000001/O=root",
        extra="req_extensions=v3\n[v3]\nbasicConstraints=critical,CA:TRUE\n"
        "subjectAltName=URI:spiffe://example.tensorguard/service/hub,DNS:example.org\n"
        "extendedKeyUsage=serverAuth",
    )
    ca = CertificateAuthority.create(TRUST_DOMAIN, NOW)
    leaf = ca.issue_agent(parse_csr(pem), AGENT, NOW)

    assert identity_from_certificate(leaf) == AGENT
    assert b"example.org" not in leaf.public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "key",
    [
        ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:512"),
        ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
        ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
        ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"),
        ("-algorithm", "ED25519"),
    ],
    ids=" ".join,
)
def test_a_key_that_is_not_named_p256_is_refused(tmp_path: Path, key: tuple[str, ...]) -> None:
    with pytest.raises(CsrWrongKey):
        parse_csr(openssl_csr(tmp_path, *key))


def test_a_request_signed_with_another_key_is_refused() -> None:
    good = x509.load_pem_x509_csr(csr_pem(p256()).encode())
    other = x509.load_pem_x509_csr(csr_pem(p256()).encode())
    forged = good.public_bytes(Encoding.DER).replace(_point(good), _point(other))
    pem = x509.load_der_x509_csr(forged).public_bytes(Encoding.PEM).decode()
    with pytest.raises(CsrBadSignature):
        parse_csr(pem)


def _point(request: x509.CertificateSigningRequest) -> bytes:
    return request.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def test_a_request_signed_with_sha1_is_refused(tmp_path: Path) -> None:
    openssl_csr(tmp_path, *P256)
    openssl(
        *("req", "-new", "-sha1", "-key", "key.pem", "-config", "req.cnf"),
        *("-subj", "/CN=x", "-out", "sha1.pem"),
        cwd=tmp_path,
    )
    with pytest.raises(CsrBadSignature):
        parse_csr((tmp_path / "sha1.pem").read_text())


def test_a_request_of_a_megabyte_is_refused_by_its_size_alone() -> None:
    with pytest.raises(CsrTooLarge):
        parse_csr("-----BEGIN CERTIFICATE REQUEST-----\n" + "A" * 1_000_000)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pem: "",
        lambda pem: "\x00" + pem,
        lambda pem: pem + "\x00",
        lambda pem: pem.replace("M", "\x00", 1),
        lambda pem: pem.replace("M", "é", 1),
        lambda pem: pem + pem,
        lambda pem: "Certificate:\n" + pem,
        lambda pem: pem.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        lambda pem: pem[: len(pem) // 2],
        lambda pem: pem.splitlines()[0] + "\nAAAA\n" + pem.splitlines()[-1],
        lambda pem: "".join(pem.splitlines()[1:-1]),
    ],
)
def test_what_is_not_one_clean_pem_block_is_refused(spoil: object) -> None:
    with pytest.raises(CsrMalformed):
        parse_csr(spoil(csr_pem(p256())))  # type: ignore[operator]  # the lambdas above


@pytest.mark.filterwarnings("ignore:Attribute's length")  # it is what this is about
def test_a_common_name_over_64_characters_is_ignored_like_any_other() -> None:
    # RFC 5280 allows 64; foreign stacks write more, and nothing of the subject is used.
    key = p256()
    name = x509.NameAttribute(NameOID.COMMON_NAME, "x" * 300, _validate=False)
    request = x509.CertificateSigningRequestBuilder(x509.Name([name])).sign(key, hashes.SHA256())
    pem = request.public_bytes(Encoding.PEM).decode()
    assert parse_csr(pem).public_numbers() == key.public_key().public_numbers()


@given(st.text(max_size=300))
def test_any_text_is_refused_with_a_typed_error(text: str) -> None:
    with pytest.raises(CsrRefused):
        parse_csr(text)


@given(st.data())
def test_a_changed_byte_in_the_request_is_always_refused(data: st.DataObject) -> None:
    raw = bytearray(x509.load_pem_x509_csr(GOOD.encode()).public_bytes(Encoding.DER))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    body = base64.encodebytes(bytes(raw)).decode()
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(CsrRefused):
        parse_csr(pem)


GOOD = csr_pem(p256())
