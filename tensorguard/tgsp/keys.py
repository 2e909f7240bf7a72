"""Key files: Ed25519 for publishers, X25519 for recipients (PEM, PKCS#8 and SPKI)."""

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from tensorguard.tgsp.errors import BadKey, OutputExists

MAX_KEY_FILE_BYTES = 64 * 1024


def compute_kid(key: Ed25519PublicKey | X25519PublicKey) -> bytes:
    """Compute a key's id: SHA-256 of the raw public key, 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).digest()


def load_publisher_private(path: Path) -> Ed25519PrivateKey:
    """Load the key that signs packages. Raises: BadKey, OSError."""
    key = _load_private(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"{path} holds no Ed25519 private key")
    return key


def load_publisher_public(path: Path) -> Ed25519PublicKey:
    """Load the key that verifies packages. Raises: BadKey, OSError."""
    key = _load_public(path)
    if not isinstance(key, Ed25519PublicKey):
        raise BadKey(f"{path} holds no Ed25519 public key")
    return key


def load_recipient_private(path: Path) -> X25519PrivateKey:
    """Load the key that opens grants. Raises: BadKey, OSError."""
    key = _load_private(path)
    if not isinstance(key, X25519PrivateKey):
        raise BadKey(f"{path} holds no X25519 private key")
    return key


def load_recipient_public(path: Path) -> X25519PublicKey:
    """Load the key that grants are sealed to. Raises: BadKey, OSError."""
    key = _load_public(path)
    if not isinstance(key, X25519PublicKey):
        raise BadKey(f"{path} holds no X25519 public key")
    return key


def write_key_pair(prefix: Path, key: Ed25519PrivateKey | X25519PrivateKey) -> tuple[Path, Path]:
    """Write PREFIX.key (mode 0600) and PREFIX.pub; never over an existing file.

    Raises:
        OutputExists: one of the two files is there already.
    """
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    key_path = prefix.with_name(prefix.name + ".key")
    pub_path = prefix.with_name(prefix.name + ".pub")
    if pub_path.exists():
        raise OutputExists(f"{pub_path} exists", hint="Keys are not replaced: name another PREFIX.")
    _write_new(key_path, private, mode=0o600)
    _write_new(pub_path, public, mode=0o644)
    return key_path, pub_path


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise OutputExists(
            f"{path} exists", hint="Keys are not replaced: name another PREFIX."
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _load_private(path: Path) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKey(f"{path} holds no unencrypted PKCS#8 private key") from error


def _load_public(path: Path) -> PublicKeyTypes:
    try:
        return load_pem_public_key(_read(path))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKey(f"{path} holds no SubjectPublicKeyInfo public key") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_KEY_FILE_BYTES + 1)
    if len(data) > MAX_KEY_FILE_BYTES:
        raise BadKey(f"{path} is too large for a key file")
    return data
