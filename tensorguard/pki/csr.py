"""Certificate signing requests: proof of possession of a key, and nothing else."""

import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tensorguard.pki.errors import CsrBadSignature, CsrMalformed, CsrTooLarge, CsrWrongKey

CSR_LIMIT_BYTES = 8 * 1024

_PEM = re.compile(
    r"\s*-----BEGIN (?P<label>(NEW )?CERTIFICATE REQUEST)-----\r?\n"
    r"[A-Za-z0-9+/=\s]+"
    r"-----END (?P=label)-----\s*",
    re.ASCII,
)


def parse_csr(pem: str) -> ec.EllipticCurvePublicKey:
    """The P-256 key whose possession a PKCS #10 request (RFC 2986) proves.

    Subject, extensions and attributes that it asks for are ignored: the platform decides them.
    Raises: CsrTooLarge, CsrMalformed, CsrWrongKey, CsrBadSignature.
    """
    # Size before anything reads the text. A character is at least a byte, so len() is enough to
    # refuse; what is not ASCII does not match the pattern.
    if len(pem) > CSR_LIMIT_BYTES:
        raise CsrTooLarge(f"the request has more than {CSR_LIMIT_BYTES} bytes")
    if _PEM.fullmatch(pem) is None:
        raise CsrMalformed("the request is not exactly one PEM block CERTIFICATE REQUEST")
    try:
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise CsrMalformed("the request is not PKCS #10") from None
    public_key = _p256_key(request)
    try:
        proven = request.is_signature_valid
        digest = request.signature_hash_algorithm
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CsrBadSignature("the request's signature algorithm is not supported") from None
    if not isinstance(digest, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        raise CsrBadSignature("the request is not signed with SHA-256, SHA-384 or SHA-512")
    if not proven:
        raise CsrBadSignature("the request is not signed with its own key")
    return public_key


def _p256_key(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    try:
        public_key = request.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise CsrWrongKey("the request's key cannot be read") from None
    if not (
        isinstance(public_key, ec.EllipticCurvePublicKey)
        and isinstance(public_key.curve, ec.SECP256R1)
    ):
        raise CsrWrongKey("the request's key is not P-256")
    return public_key
