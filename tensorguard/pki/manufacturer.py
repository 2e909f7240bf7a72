"""Certificates of device makers: a CA that may let devices in, and what such a device shows."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tensorguard.pki.errors import BadCertificate, WrongIssuer
from tensorguard.pki.identity import (
    UNPARSABLE,
    DeviceIdentity,
    Peer,
    check_time,
    find_issuer,
    key_sha256,
    load_certificate,
    spki_sha256,
)

PEM_LIMIT_BYTES: Final = 12 * 1024
SERIAL_LIMIT: Final = 64  # RFC 5280 appendix A, ub-serial-number
# Verifying with a longer key costs what a stranger should not be able to have spent.
_RSA_BITS: Final = range(2048, 8193)
_PEM = re.compile(
    r"\s*-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*", re.ASCII
)
_SERIAL = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,62}[\x21-\x7e])?")


def parse_ca(pem: str, now: datetime) -> x509.Certificate:
    """A CA certificate of a device maker that is valid now, from PEM.

    Raises: BadCertificate, CertificateExpired, CertificateNotYetValid.
    """
    certificate = parse_pem(pem)
    try:
        _check_key(certificate.public_key())
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound as error:
        raise BadCertificate(f"a CA certificate without {error.oid.dotted_string}") from None
    except UNPARSABLE:
        raise BadCertificate("the certificate cannot be parsed") from None
    if not constraints.value.ca or not usage.value.key_cert_sign:
        raise BadCertificate("the certificate is not that of a CA that may sign certificates")
    check_time(certificate, now)
    return certificate


def parse_pem(pem: str) -> x509.Certificate:
    """Exactly one certificate of bounded size from PEM. Raises: BadCertificate."""
    # A character is at least a byte; what is not ASCII does not match the pattern.
    if len(pem) > PEM_LIMIT_BYTES:
        raise BadCertificate(f"the certificate has more than {PEM_LIMIT_BYTES} bytes")
    if _PEM.fullmatch(pem) is None:
        raise BadCertificate("this is not exactly one PEM block CERTIFICATE")
    try:
        parsed = x509.load_pem_x509_certificate(pem.encode("ascii"))
        return load_certificate(parsed.public_bytes(Encoding.DER))
    except UNPARSABLE:
        raise BadCertificate("the certificate cannot be parsed") from None


def verify_proof(pem: str, ca: x509.Certificate, challenge: str, now: datetime) -> None:
    """Believe that whoever sends this certificate has the CA's key: it has signed the challenge.

    The certificate has to be issued directly by the CA, valid now, with CN = challenge.
    Raises: BadCertificate, WrongIssuer, CertificateExpired, CertificateNotYetValid.
    """
    certificate = parse_pem(pem)
    _check_issued(certificate, [ca], now)
    check_time(certificate, now)
    if _subject(certificate, NameOID.COMMON_NAME) != [challenge]:
        raise BadCertificate(
            "the certificate's common name is not the challenge",
            hint="Sign a new certificate whose subject has CN = the challenge, and nothing else.",
        )


def verify_device(leaf_der: bytes, cas: Sequence[x509.Certificate], now: datetime) -> Peer:
    """Believe a device certificate that one of `cas`, valid now, has issued directly.

    A device certificate is an end entity's, as IEEE 802.1AR-2018 section 8 describes an IDevID: its
    subject has one serialNumber, and notAfter may be the end of the year 9999.
    Raises: BadCertificate, WrongIssuer, CertificateExpired, CertificateNotYetValid.
    """
    leaf = load_certificate(leaf_der)
    issuer = _check_issued(leaf, cas, now)
    check_time(leaf, now)
    try:
        _check_key(leaf.public_key())
        _check_extensions(leaf.extensions)
        spki = spki_sha256(leaf)
    except UNPARSABLE:
        raise BadCertificate("the certificate cannot be parsed") from None
    serials = _subject(leaf, NameOID.SERIAL_NUMBER)
    if len(serials) != 1 or _SERIAL.fullmatch(serials[0]) is None:
        raise BadCertificate("the certificate's subject has not exactly one printable serialNumber")
    identity = DeviceIdentity(leaf_der, key_sha256(issuer.public_key()), serials[0])
    return Peer(identity, leaf.serial_number, spki, leaf.not_valid_after_utc)


def _check_issued(
    leaf: x509.Certificate, cas: Sequence[x509.Certificate], now: datetime
) -> x509.Certificate:
    issuer = find_issuer(leaf, cas, now)
    if issuer is None:
        raise WrongIssuer("no active manufacturer CA has issued the certificate directly")
    if not isinstance(leaf.signature_hash_algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        raise BadCertificate("the certificate is not signed with SHA-256, SHA-384 or SHA-512")
    return issuer


def _check_key(key: CertificatePublicKeyTypes) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
            return
    elif isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
        return
    raise BadCertificate("the certificate's key is not P-256, P-384 or RSA of 2048 to 8192 bits")


def _check_extensions(extensions: x509.Extensions) -> None:
    # Each of them may be left out; what is there must fit.
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise BadCertificate("a CA certificate identifies no device")
        if isinstance(value, x509.KeyUsage) and not value.digital_signature:
            raise BadCertificate("the certificate's key is not for signatures")
        if (
            isinstance(value, x509.ExtendedKeyUsage)
            and ExtendedKeyUsageOID.CLIENT_AUTH not in value
        ):
            raise BadCertificate("the certificate is not for TLS client authentication")
        if isinstance(value, x509.SubjectAlternativeName) and _has_our_form(value):
            raise BadCertificate("a manufacturer names no identities of a platform")


def _has_our_form(names: x509.SubjectAlternativeName) -> bool:
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return any(uri.lower().startswith("spiffe:") for uri in uris)


def _subject(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    try:
        found = [one.value for one in certificate.subject.get_attributes_for_oid(oid)]
    except UNPARSABLE:
        raise BadCertificate("the certificate's subject cannot be parsed") from None
    return [value if isinstance(value, str) else "" for value in found]
