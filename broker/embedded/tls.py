"""Why a TLS handshake failed, in words that can be counted."""

import ssl
from typing import Final

# What is somebody's try to get in, in contrast to a port scan or a lost connection.
SUSPICIOUS: Final = frozenset(
    {"no-certificate", "untrusted-certificate", "expired", "not-yet-valid", "wrong-purpose"}
)
# The peer's own doing, in contrast to a front that is too busy or a connection that was lost.
REFUSED: Final = SUSPICIOUS | {"tls-version", "no-shared-cipher", "tls-error"}
# X509_V_ERR_... of openssl/x509_vfy.h.
_VERIFY_REASONS: Final = {9: "not-yet-valid", 10: "expired", 26: "wrong-purpose"}
_TLS_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no-certificate",
    "UNSUPPORTED_PROTOCOL": "tls-version",
    "NO_SHARED_CIPHER": "no-shared-cipher",
}


def failure_reason(error: Exception) -> str:
    """Name why a handshake failed, from a closed list."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_REASONS.get(error.verify_code, "untrusted-certificate")
    if isinstance(error, ssl.SSLError):
        return _TLS_REASONS.get(error.reason or "", "tls-error")
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return "handshake-timeout"
    return "handshake-aborted"
