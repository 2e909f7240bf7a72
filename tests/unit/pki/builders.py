"""Certificates, requests and bundles, good by default, for a test to spoil in one place."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import run
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tensorguard.pki.bundle import trusted_key
from tensorguard.pki.identity import AgentIdentity
from tensorguard.pki.issuer import CertificateAuthority
from tensorguard.pki.keys import Ed25519Signer
from tensorguard.protocol.messages import TrustBundle, TrustedKeys, TrustedPublisher

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TRUST_DOMAIN = "example.tensorguard"
AGENT_ID = UUID("0195a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b")
AGENT = AgentIdentity(TRUST_DOMAIN, "hospital-a", AGENT_ID)

Change = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def forge_leaf(
    ca: CertificateAuthority,
    *,
    common_name: str = str(AGENT_ID),
    names: list[x509.GeneralName] | None = None,
    usages: list[x509.ObjectIdentifier] | None = None,
    is_ca: bool = False,
    key_cert_sign: bool = False,
    key: object = None,
    extra: Change = lambda builder: builder,
    leave_out: type[x509.ExtensionType] | None = None,
    not_before: datetime = NOW - timedelta(minutes=5),
    not_after: datetime = NOW + timedelta(days=7),
    signing_key: ec.EllipticCurvePrivateKey | None = None,
) -> x509.Certificate:
    """A leaf that the CA's key really signs, but of a profile that the issuer would not write."""
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=is_ca, path_length=None), True),
        (
            x509.KeyUsage(True, False, False, False, False, key_cert_sign, False, False, False),
            True,
        ),
        (x509.ExtendedKeyUsage(usages or [ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(AGENT.uri)] if names is None else names
            ),
            False,
        ),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(ca.certificate.subject)
        .public_key((key or p256()).public_key())  # type: ignore[attr-defined]  # any private key
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    for extension, critical in extensions:
        if not isinstance(extension, leave_out or type(None)):
            builder = builder.add_extension(extension, critical)
    return extra(builder).sign(signing_key or ca.private_key, hashes.SHA256())


def openssl(*arguments: str | Path, cwd: Path, expect: int = 0) -> str:
    """Run the foreign tool and give back what it printed."""
    done = run(
        ["openssl", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


class Roots:
    """Root keys and online keys of a platform, from which bundles are built."""

    def __init__(self, count: int = 3, threshold: int = 2) -> None:
        self.ca = CertificateAuthority.create(TRUST_DOMAIN, NOW)
        self.signers = [Ed25519Signer.generate() for _ in range(count)]
        self.threshold = threshold
        self.online = Ed25519Signer.generate()

    def bundle(
        self,
        version: int = 1,
        *,
        lifetime: timedelta = timedelta(days=365),
        key_lifetime: timedelta = timedelta(days=365),
        root_lifetime: timedelta = timedelta(days=365),
        publishers: list[TrustedPublisher] | None = None,
    ) -> TrustBundle:
        online = [trusted_key(self.online.public_raw, NOW + key_lifetime)]
        return TrustBundle(
            trust_domain=TRUST_DOMAIN,
            version=version,
            issued_at=NOW,
            expires_at=NOW + lifetime,
            ca=[self.ca.certificate_pem],
            keys=TrustedKeys(
                root=[
                    trusted_key(signer.public_raw, NOW + root_lifetime) for signer in self.signers
                ],
                desired=online,
                grant=online,
                command=online,
                config=online,
                ledger=online,
            ),
            root_threshold=self.threshold,
            publishers=publishers or [],
        )
