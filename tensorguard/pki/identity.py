"""Identity in a certificate: who an agent or a service is, and when that is believed."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from tensorguard.pki.errors import (
    BadCertificate,
    BadIdentity,
    CertificateExpired,
    CertificateNotYetValid,
    WrongIssuer,
    WrongTrustDomain,
)
from tensorguard.protocol.topics import FLEET_PATTERN

_E = TypeVar("_E", bound=x509.ExtensionType)
# SPIFFE-ID section 2.1: lower-case letters, digits, dots, dashes, underscores; ≤ 255 bytes.
_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?")
_SLUG = re.compile(FLEET_PATTERN)  # services are named by the same rule
_URI = re.compile(
    r"spiffe://(?P<domain>[^/]+)/(?:fleet/(?P<fleet>[^/]+)/agent/(?P<agent>[^/]+)|service/(?P<service>[^/]+))"
)
_URI_LIMIT_BYTES = 2048  # SPIFFE-ID section 2.4
# Ours are about 700 bytes; whoever sends more is not speaking our profile, and parsing costs time.
_CERTIFICATE_LIMIT_BYTES = 8 * 1024
_KNOWN_CRITICAL = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)


def _check_form(pattern: re.Pattern[str], what: str, value: str) -> None:
    if pattern.fullmatch(value) is None:
        raise BadIdentity(f"{value[:80]!r} is not a {what}")


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """One agent of one fleet. Raises: BadIdentity where a part has a bad form."""

    trust_domain: str
    fleet: str
    agent_id: UUID

    def __post_init__(self) -> None:
        _check_form(_TRUST_DOMAIN, "trust domain", self.trust_domain)
        _check_form(_SLUG, "fleet slug", self.fleet)

    @property
    def uri(self) -> str:
        """The SPIFFE id that stands in the certificate."""
        return f"spiffe://{self.trust_domain}/fleet/{self.fleet}/agent/{self.agent_id}"

    @property
    def common_name(self) -> str:
        """The subject's CN, and the MQTT client id."""
        return str(self.agent_id)


@dataclass(frozen=True, slots=True)
class ServiceIdentity:
    """One kind of service of the platform. Raises: BadIdentity where a part has a bad form."""

    trust_domain: str
    name: str

    def __post_init__(self) -> None:
        _check_form(_TRUST_DOMAIN, "trust domain", self.trust_domain)
        _check_form(_SLUG, "service name", self.name)

    @property
    def uri(self) -> str:
        """The SPIFFE id that stands in the certificate."""
        return f"spiffe://{self.trust_domain}/service/{self.name}"

    @property
    def common_name(self) -> str:
        """The subject's CN."""
        return self.name


Identity = AgentIdentity | ServiceIdentity


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """A device that asks to join, as its manufacturer's certificate (DER) names it.

    `serial` is the subject's serialNumber, `issuer_spki_sha256` the key of the manufacturer CA.
    """

    certificate: bytes = field(repr=False)
    issuer_spki_sha256: bytes
    serial: str

    @property
    def certificate_sha256(self) -> str:
        """Lower-case hex; part of the device's topics, and its MQTT client id."""
        return hashlib.sha256(self.certificate).hexdigest()


Holder = Identity | DeviceIdentity


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, by a certificate that was believed.

    `spki_sha256` is lower-case hex; a session must end at `not_after`.
    """

    identity: Holder
    serial: int
    spki_sha256: str
    not_after: datetime


def parse_uri(uri: str) -> Identity:
    """Read a SPIFFE id of ours; only the exact form that `.uri` writes is accepted.

    Raises: BadIdentity.
    """
    match = _URI.fullmatch(uri) if len(uri) <= _URI_LIMIT_BYTES else None
    if match is None:
        raise BadIdentity(f"{uri[:80]!r} is not an identity of this platform")
    if match["service"] is not None:
        return ServiceIdentity(match["domain"], match["service"])
    try:
        agent_id = UUID(match["agent"])
    except ValueError:
        raise BadIdentity(f"{match['agent'][:80]!r} is not an agent id") from None
    if str(agent_id) != match["agent"]:  # UUID() also takes braces, urn:uuid: and capitals
        raise BadIdentity(f"{match['agent'][:80]!r} is not an agent id in its canonical form")
    return AgentIdentity(match["domain"], match["fleet"], agent_id)


def spki_sha256(certificate: x509.Certificate) -> str:
    """Lower-case hex SHA-256 of the certificate's SubjectPublicKeyInfo (RFC 7469 section 2.4)."""
    return key_sha256(certificate.public_key()).hex()


def key_sha256(public_key: CertificatePublicKeyTypes) -> bytes:
    """SHA-256 of a public key's SubjectPublicKeyInfo, 32 bytes as tables store it."""
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def serial_text(serial: int) -> str:
    """A certificate's serial as tables and messages write it: lower-case hex."""
    return format(serial, "x")


def authority_key_id(certificate: x509.Certificate) -> bytes:
    """Which of our CAs has issued this certificate: the CA's subject key identifier."""
    extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    key_id = extension.value.key_identifier
    assert key_id is not None  # the issuer always writes it
    return key_id


def subject_key_id(ca: x509.Certificate) -> bytes:
    """What `authority_key_id` gives for the certificates that this CA has issued."""
    extension = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return extension.value.digest


# What cryptography raises for content that it does not take; only the first is documented for all.
UNPARSABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def load_certificate(der: bytes) -> x509.Certificate:
    """Parse one certificate of bounded size. Raises: BadCertificate."""
    if len(der) > _CERTIFICATE_LIMIT_BYTES:
        raise BadCertificate(f"a certificate of {len(der)} bytes is larger than any that we issue")
    try:
        return x509.load_der_x509_certificate(der)
    except UNPARSABLE:
        raise BadCertificate("the certificate cannot be parsed") from None


def identity_from_certificate(certificate: x509.Certificate | bytes) -> Identity:
    """Whom a leaf certificate names, if it has exactly the profile that the issuer writes.

    Says nothing about who signed it, nor about the time: that is `verify_peer`.
    Raises: BadCertificate, BadIdentity.
    """
    leaf = load_certificate(certificate) if isinstance(certificate, bytes) else certificate
    try:
        return _identity(leaf)
    except UNPARSABLE:
        # cryptography parses extensions, names and keys only when they are asked for.
        raise BadCertificate("the certificate cannot be parsed") from None


def verify_peer(
    leaf_der: bytes, cas: Sequence[x509.Certificate], trust_domain: str, now: datetime
) -> Peer:
    """Believe a leaf that one of `cas`, valid now, has issued directly for our trust domain.

    Raises: BadCertificate, BadIdentity, WrongTrustDomain, WrongIssuer, CertificateExpired,
    CertificateNotYetValid.
    """
    leaf = load_certificate(leaf_der)
    identity = identity_from_certificate(leaf)
    if identity.trust_domain != trust_domain:
        raise WrongTrustDomain(
            f"the certificate is of {identity.trust_domain!r}, this platform is {trust_domain!r}"
        )
    if find_issuer(leaf, cas, now) is None:
        raise WrongIssuer("no current platform CA has issued the certificate directly")
    check_time(leaf, now)
    return Peer(identity, leaf.serial_number, spki_sha256(leaf), leaf.not_valid_after_utc)


def find_issuer(
    leaf: x509.Certificate, cas: Sequence[x509.Certificate], now: datetime
) -> x509.Certificate | None:
    """Return the CA, valid now, that has issued a certificate directly; None where none has."""
    return next((ca for ca in cas if _is_current(ca, now) and _issued(ca, leaf)), None)


def check_time(certificate: x509.Certificate, now: datetime) -> None:
    """Refuse a certificate outside its validity.

    Raises: CertificateExpired, CertificateNotYetValid.
    """
    if now >= certificate.not_valid_after_utc:
        raise CertificateExpired(
            f"the certificate expired at {certificate.not_valid_after_utc.isoformat()}"
        )
    if now < certificate.not_valid_before_utc:
        raise CertificateNotYetValid(
            f"the certificate is valid from {certificate.not_valid_before_utc.isoformat()}"
        )


def _is_current(ca: x509.Certificate, now: datetime) -> bool:
    return ca.not_valid_before_utc <= now < ca.not_valid_after_utc


def _issued(ca: x509.Certificate, leaf: x509.Certificate) -> bool:
    try:  # cryptography parses names only when they are asked for
        if leaf.issuer != ca.subject:
            return False
        leaf.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _identity(leaf: x509.Certificate) -> Identity:
    if leaf.version is not x509.Version.v3:
        raise BadCertificate("the certificate is not X.509 version 3")
    public_key = leaf.public_key()
    if not (
        isinstance(public_key, ec.EllipticCurvePublicKey)
        and isinstance(public_key.curve, ec.SECP256R1)
    ):
        raise BadCertificate("the certificate's key is not P-256")
    _check_extensions(leaf.extensions)
    identity = _named_by(leaf.extensions)
    usages = set(_find(leaf.extensions, x509.ExtendedKeyUsage))
    allowed = {ExtendedKeyUsageOID.CLIENT_AUTH}
    if isinstance(identity, ServiceIdentity):
        allowed.add(ExtendedKeyUsageOID.SERVER_AUTH)
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usages or not usages <= allowed:
        raise BadCertificate("the certificate is not for TLS client authentication, or for more")
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in names] != [identity.common_name]:
        raise BadCertificate("the certificate's common name is not that of its identity")
    return identity


def _find(extensions: x509.Extensions, kind: type[_E]) -> _E:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        raise BadCertificate(f"the certificate has no {kind.__name__}") from None


def _check_extensions(extensions: x509.Extensions) -> None:
    for extension in extensions:
        if extension.critical and extension.oid not in _KNOWN_CRITICAL:
            raise BadCertificate(f"unknown critical extension {extension.oid.dotted_string}")
    if _find(extensions, x509.BasicConstraints).ca:
        raise BadCertificate("a CA certificate identifies nobody")
    usage = _find(extensions, x509.KeyUsage)
    if not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise BadCertificate("the certificate's key usage is not that of a leaf")


def _named_by(extensions: x509.Extensions) -> Identity:
    names = list(_find(extensions, x509.SubjectAlternativeName))
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    if len(uris) != 1:
        raise BadCertificate(f"the certificate has {len(uris)} URI names, not exactly one")
    identity = parse_uri(uris[0])
    hosts = [name for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
    if isinstance(identity, AgentIdentity) and len(names) != 1:
        raise BadCertificate("an agent's certificate has no name beside its URI")
    if len(hosts) + 1 != len(names):
        raise BadCertificate("the certificate has names of a kind that we never issue")
    return identity
