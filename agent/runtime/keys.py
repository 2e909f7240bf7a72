"""The agent's own keys: P-256 for TLS, X25519 for grants; made here, never sent anywhere."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agent.errors import StateDamaged
from agent.runtime.statedir import ENCRYPTION_KEY, PENDING_KEY, StateDir


def private_pem(key: ec.EllipticCurvePrivateKey | X25519PrivateKey) -> bytes:
    """A private key as unencrypted PKCS #8 PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_csr(key: ec.EllipticCurvePrivateKey) -> str:
    """A signing request that proves possession of `key` and asks for nothing (RFC 2986)."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def make_pending_key(directory: StateDir) -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key and have it on disk before anyone certifies it."""
    key = ec.generate_private_key(ec.SECP256R1())
    directory.write(PENDING_KEY, private_pem(key))
    return key


def find_pending_key(directory: StateDir) -> ec.EllipticCurvePrivateKey | None:
    """Return the key that waits for a certificate. Raises: StateDamaged."""
    data = directory.find(PENDING_KEY)
    return None if data is None else load_tls_key(data)


def load_tls_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Return a P-256 key from PEM. Raises: StateDamaged."""
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        raise StateDamaged("the agent's TLS key cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StateDamaged("the agent's TLS key is not P-256")
    return key


def get_or_make_encryption_key(directory: StateDir) -> X25519PrivateKey:
    """Return the X25519 key that grants are sealed to. Raises: StateDamaged."""
    data = directory.find(ENCRYPTION_KEY)
    if data is None:
        made = X25519PrivateKey.generate()
        directory.write(ENCRYPTION_KEY, private_pem(made))
        return made
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        raise StateDamaged("the agent's encryption key cannot be read") from None
    if not isinstance(key, X25519PrivateKey):
        raise StateDamaged("the agent's encryption key is not X25519")
    return key
