"""TLS of the agents' listener: our certificate, and nobody trusted but the current platform CAs."""

import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


def server_context(
    certificate_pem: bytes, private_key_pem: bytes, cas: Sequence[x509.Certificate]
) -> ssl.SSLContext:
    """Return a context that asks every client for a certificate of one of `cas`.

    Raises: ssl.SSLError where key and certificate do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=b"".join(ca.public_bytes(Encoding.DER) for ca in cas))
    # A resumed session would skip the chain's verification, and a ticket costs each connect time.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    # OpenSSL reads a key from a file only: one for an instant, in a directory that only we enter.
    with tempfile.TemporaryDirectory(prefix="tg-broker-") as directory:
        path = Path(directory) / "service.pem"
        path.touch(mode=0o600)
        path.write_bytes(private_key_pem + b"\n" + certificate_pem)
        context.load_cert_chain(path)
    return context


def failure_reason(error: Exception) -> str:
    """Name why a handshake failed, from a closed list."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_REASONS.get(error.verify_code, "untrusted-certificate")
    if isinstance(error, ssl.SSLError):
        return _TLS_REASONS.get(error.reason or "", "tls-error")
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return "handshake-timeout"
    return "handshake-aborted"


# What is somebody's try to get in, in contrast to a port scan or a lost connection.
SUSPICIOUS = frozenset(
    {"no-certificate", "untrusted-certificate", "expired", "not-yet-valid", "wrong-purpose"}
)
# X509_V_ERR_… of openssl/x509_vfy.h.
_VERIFY_REASONS = {9: "not-yet-valid", 10: "expired", 26: "wrong-purpose"}
_TLS_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no-certificate",
    "UNSUPPORTED_PROTOCOL": "tls-version",
    "NO_SHARED_CIPHER": "no-shared-cipher",
}
