"""The platform CA: issues the certificates of agents and services."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tensorguard.pki.errors import BadIdentity, BadKey, CannotIssue
from tensorguard.pki.identity import AgentIdentity, Identity, ServiceIdentity, spki_sha256

AGENT_LIFETIME = timedelta(days=7)
SERVICE_LIFETIME = timedelta(days=7)
CA_LIFETIME = timedelta(days=3650)
# Devices' clocks run behind; five minutes is what they are given at the first connect.
_BACKDATED = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A CA certificate with its P-256 key. Raises: BadKey where they do not belong together."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)

    def __post_init__(self) -> None:
        if self.certificate.public_key() != self.private_key.public_key():
            raise BadKey(
                "the CA's key does not belong to its certificate",
                hint="Restore the sealed CA key and the CA certificate from the same backup.",
            )

    @classmethod
    def create(cls, trust_domain: str, now: datetime, lifetime: timedelta = CA_LIFETIME) -> Self:
        """A new self-signed CA that may issue leaves only. Raises: BadIdentity."""
        ServiceIdentity(trust_domain, "ca")  # checks the trust domain's form
        private_key = ec.generate_private_key(ec.SECP256R1())
        serial = _random_serial()
        # A name of its own for each CA: two of them may be current at the same time.
        name = x509.Name(
            [
                x509.NameAttribute(
                    NameOID.COMMON_NAME, f"TensorGuard platform CA {serial >> 64:016x}"
                )
            ]
        )
        not_before = _whole_seconds(now) - _BACKDATED
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private_key.public_key())
            .serial_number(serial)
            .not_valid_before(not_before)
            .not_valid_after(_whole_seconds(now) + lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(_uri_names(f"spiffe://{trust_domain}"), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(private_key.public_key()), critical=False
            )
            .sign(private_key, hashes.SHA256())
        )
        return cls(certificate, private_key)

    @classmethod
    def load(cls, certificate_pem: str, private_key_der: bytes) -> Self:
        """A CA from what `certificate_pem` and `private_key_der` wrote. Raises: BadKey."""
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
            private_key = load_der_private_key(private_key_der, password=None)
        except (ValueError, TypeError, x509.InvalidVersion):
            raise BadKey("the CA's certificate or key cannot be parsed") from None
        if not isinstance(private_key, ec.EllipticCurvePrivateKey):
            raise BadKey("the CA's key is not P-256")
        return cls(certificate, private_key)

    @property
    def certificate_pem(self) -> str:
        """The CA certificate as PEM."""
        return certificate_pem(self.certificate)

    @property
    def spki_sha256(self) -> str:
        """The pin that join strings carry."""
        return spki_sha256(self.certificate)

    def private_key_der(self) -> bytes:
        """The secret key as PKCS #8 DER, for sealing; never log it."""
        return self.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def issue_agent(
        self,
        public_key: ec.EllipticCurvePublicKey,
        identity: AgentIdentity,
        now: datetime,
        lifetime: timedelta = AGENT_LIFETIME,
    ) -> x509.Certificate:
        """A client certificate for one agent. Raises: CannotIssue."""
        names = _uri_names(identity.uri)
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        return self._issue(public_key, identity, names, usages, now, lifetime)

    def issue_service(
        self,
        public_key: ec.EllipticCurvePublicKey,
        identity: ServiceIdentity,
        now: datetime,
        lifetime: timedelta = SERVICE_LIFETIME,
        *,
        dns_names: Sequence[str] = (),
        ip_addresses: Sequence[IPv4Address | IPv6Address] = (),
    ) -> x509.Certificate:
        """A certificate with which a service is a server under these hosts, and a client.

        Raises: CannotIssue.
        """
        try:
            hosts = [x509.DNSName(name) for name in dns_names]
        except ValueError:
            raise CannotIssue(f"{list(dns_names)!r} has a name that is not a host name") from None
        names = x509.SubjectAlternativeName(
            [
                x509.UniformResourceIdentifier(identity.uri),
                *hosts,
                *(x509.IPAddress(address) for address in ip_addresses),
            ]
        )
        usages = x509.ExtendedKeyUsage(
            [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        )
        return self._issue(public_key, identity, names, usages, now, lifetime)

    def _issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        identity: Identity,
        names: x509.SubjectAlternativeName,
        usages: x509.ExtendedKeyUsage,
        now: datetime,
        lifetime: timedelta,
    ) -> x509.Certificate:
        if not isinstance(public_key.curve, ec.SECP256R1):
            raise CannotIssue("only P-256 keys are certified")
        now = _whole_seconds(now)
        ca = self.certificate
        if not ca.not_valid_before_utc <= now < ca.not_valid_after_utc:
            raise CannotIssue(f"the platform CA is not valid at {now.isoformat()}")
        ca_key_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name)])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca.subject)
            .public_key(public_key)
            .serial_number(_random_serial())
            .not_valid_before(max(now - _BACKDATED, ca.not_valid_before_utc))
            .not_valid_after(min(now + lifetime, ca.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(usages, critical=False)
            .add_extension(names, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_key_id),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .sign(self.private_key, hashes.SHA256())
        )


def certificate_pem(certificate: x509.Certificate) -> str:
    """A certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def load_ca_certificate(pem: str, trust_domain: str) -> x509.Certificate:
    """A CA certificate of this trust domain from PEM. Raises: BadIdentity, BadKey."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (
        ValueError,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.InvalidVersion,
    ):
        raise BadKey("the CA certificate cannot be parsed") from None
    if not is_ca:
        raise BadKey("the certificate is not that of a CA")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris != [f"spiffe://{trust_domain}"]:
        raise BadIdentity(f"the CA certificate is not of trust domain {trust_domain!r}")
    return certificate


def _random_serial() -> int:
    # RFC 5280 section 4.1.2.2: positive; 128 random bits cannot be guessed nor collide.
    return secrets.randbits(128) | 1


def _whole_seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def _uri_names(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
