"""Certificates and keys of a made-up platform, good and bad, for foreign MQTT clients."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from uuid6 import uuid7

from tensorguard.pki.identity import AgentIdentity, ServiceIdentity
from tensorguard.pki.issuer import CertificateAuthority
from tensorguard.services.certificates.certificates import ServiceCertificate

TRUST_DOMAIN = "test.example"


@dataclass(frozen=True)
class Credentials:
    """A certificate with its key, as files and in memory."""

    client_id: str
    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey
    directory: Path

    def __post_init__(self) -> None:
        self.certificate_path.write_bytes(self.certificate_pem)
        self.key_path.write_bytes(self.key_pem)

    @property
    def certificate_path(self) -> Path:
        return self.directory / f"{self.certificate.serial_number:x}.pem"

    @property
    def key_path(self) -> Path:
        return self.directory / f"{self.certificate.serial_number:x}.key"

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def client_context(self, ca_path: Path) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=ca_path)
        context.load_cert_chain(self.certificate_path, self.key_path)
        return context


@dataclass(frozen=True)
class AgentCredentials(Credentials):
    """The credentials of one agent."""

    fleet: str
    agent_id: UUID

    def up(self, kind: str) -> str:
        return f"tg/v1/{self.fleet}/{self.agent_id}/up/{kind}"

    def down(self, kind: str) -> str:
        return f"tg/v1/{self.fleet}/{self.agent_id}/down/{kind}"


class Platform:
    """One platform CA and everything that it, and others in its name, may sign."""

    def __init__(self, directory: Path, authority: CertificateAuthority | None = None) -> None:
        self.directory = directory
        self.authority = authority or CertificateAuthority.create(
            TRUST_DOMAIN, datetime.now(UTC) - timedelta(days=30)
        )
        self.ca_path = directory / "ca.pem"
        self.ca_path.write_text(self.authority.certificate_pem)
        self.server_certificate = ServiceCertificate(
            self.authority,
            ServiceIdentity(TRUST_DOMAIN, "broker"),
            hosts=["localhost", "127.0.0.1"],
        )
        self.hub = self.service("hub")

    def service(self, name: str) -> Credentials:
        private_key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.authority.issue_service(
            private_key.public_key(),
            ServiceIdentity(TRUST_DOMAIN, name),
            datetime.now(UTC),
        )
        return Credentials(name, certificate, private_key, self.directory)

    def agent(
        self,
        fleet: str = "hospital-a",
        agent_id: UUID | None = None,
        *,
        issued: timedelta = timedelta(0),
        lifetime: timedelta = timedelta(days=7),
        authority: CertificateAuthority | None = None,
        trust_domain: str = TRUST_DOMAIN,
    ) -> AgentCredentials:
        """An agent's credentials, issued `issued` from now."""
        identity = AgentIdentity(trust_domain, fleet, agent_id or uuid7())
        private_key = ec.generate_private_key(ec.SECP256R1())
        certificate = (authority or self.authority).issue_agent(
            private_key.public_key(), identity, datetime.now(UTC) + issued, lifetime
        )
        return self._of(certificate, private_key, identity)

    def forged(
        self,
        signer: ec.EllipticCurvePrivateKey,
        issuer: x509.Name,
        *,
        issued: timedelta = timedelta(0),
        lifetime: timedelta = timedelta(days=1),
        usages: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH,),
        uris: tuple[str, ...] | None = None,
        victim: AgentCredentials | None = None,
    ) -> AgentCredentials:
        """An agent's certificate as its issuer would not make it, in the victim's name if given."""
        agent_id = victim.agent_id if victim else uuid7()
        identity = AgentIdentity(TRUST_DOMAIN, "hospital-a", agent_id)
        private_key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(uri) for uri in uris or (identity.uri,)]
        start = datetime.now(UTC) + issued
        certificate = (
            x509.CertificateBuilder()
            .subject_name(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name)])
            )
            .issuer_name(issuer)
            .public_key(private_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_LEAF_USAGE, critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(private_key.public_key()), critical=False
            )
            .sign(signer, hashes.SHA256())
        )
        return self._of(certificate, private_key, identity)

    def _of(
        self,
        certificate: x509.Certificate,
        private_key: ec.EllipticCurvePrivateKey,
        identity: AgentIdentity,
    ) -> AgentCredentials:
        return AgentCredentials(
            client_id=str(identity.agent_id),
            certificate=certificate,
            private_key=private_key,
            directory=self.directory,
            fleet=identity.fleet,
            agent_id=identity.agent_id,
        )


_LEAF_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
