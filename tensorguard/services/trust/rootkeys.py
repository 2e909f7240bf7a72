"""Root keys, which sign trust bundles: files that belong off this machine, read by no service."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from tensorguard.pki.keys import Ed25519Signer
from tensorguard.services.errors import RootKeysUnusable
from tensorguard.vault.private_file import create_private, read_private

# The second is a spare: whoever loses one can still publish, and name new ones.
ROOT_KEYS: Final = 2
ROOT_THRESHOLD: Final = 1
KEY_PATTERN: Final = "root-*.key"
_PASSPHRASE: Final = "root-passphrase"  # noqa: S105 - the name of a file
_FILE_LIMIT_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class SealedRootKey:
    """A root key in its file; the passphrase is nowhere else."""

    signer: Ed25519Signer
    path: Path
    passphrase: str = field(repr=False)


def ensure_root_keys(root_dir: Path) -> list[Ed25519Signer]:
    """The root keys in `root_dir`, made where they are missing, in files of mode 0600.

    Keys that an earlier start made before it was killed are taken over, so that nothing but the
    commit of the trust bundle decides whether the platform exists.
    Raises: RootKeysUnusable, VaultError.
    """
    existing = sorted(root_dir.glob(KEY_PATTERN))
    passphrase_file = root_dir / _PASSPHRASE
    if existing and not passphrase_file.exists():
        raise RootKeysUnusable(f"{root_dir} has root keys but no {_PASSPHRASE}")
    create_private(passphrase_file, secrets.token_urlsafe(32).encode() + b"\n")
    passphrase = read_private(passphrase_file, _FILE_LIMIT_BYTES)
    signers = load_root_keys(existing, passphrase)
    while len(signers) < ROOT_KEYS:
        signer = Ed25519Signer.generate()
        create_private(root_dir / _file_name(signer), _encrypt(signer, passphrase))
        signers.append(signer)
    return signers


def seal_root_key(directory: Path, signer: Ed25519Signer | None = None) -> SealedRootKey:
    """Write a root key, a new one unless given, sealed with a new passphrase of its own.

    Beside it comes its public key, `root-….pub`, which a draft takes to add it.
    Raises: RootKeysUnusable if the file exists already, VaultError.
    """
    signer = signer or Ed25519Signer.generate()
    passphrase = secrets.token_urlsafe(32)
    path = directory / _file_name(signer)
    if not create_private(path, _encrypt(signer, passphrase.encode())):
        raise RootKeysUnusable(
            f"{path} exists already", hint="Name another directory: no key is overwritten."
        )
    public = signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    create_private(path.with_suffix(".pub"), public)
    return SealedRootKey(signer, path, passphrase)


def load_root_key(path: Path, passphrase: bytes) -> Ed25519Signer:
    """The root key in a file. Raises: RootKeysUnusable, VaultError."""
    try:
        key = load_pem_private_key(read_private(path, _FILE_LIMIT_BYTES), passphrase.strip())
    except (ValueError, TypeError):
        raise RootKeysUnusable(f"{path} does not open with the passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise RootKeysUnusable(f"{path} is not an Ed25519 key")
    return Ed25519Signer(key)


def load_root_keys(paths: Sequence[Path], passphrase: bytes) -> list[Ed25519Signer]:
    """The root keys in these files, which one passphrase opens.

    Raises: RootKeysUnusable, VaultError.
    """
    return [load_root_key(path, passphrase) for path in paths]


def find_passphrase(path: Path) -> bytes | None:
    """Return the passphrase that lies beside a root key; None where it is kept elsewhere.

    Raises: VaultError.
    """
    for beside in (path.with_suffix(".passphrase"), path.with_name(_PASSPHRASE)):
        if beside.exists():
            return read_private(beside, _FILE_LIMIT_BYTES)
    return None


def load_root_directory(root_dir: Path) -> list[Ed25519Signer]:
    """The root keys of a directory that still holds their passphrases.

    Raises: RootKeysUnusable, VaultError.
    """
    paths = sorted(root_dir.glob(KEY_PATTERN))
    if not paths:
        raise RootKeysUnusable(
            f"{root_dir} has no {KEY_PATTERN}",
            hint="Sign where the root keys are: 'tensorguard trust draft', 'sign', 'publish'.",
        )
    signers = []
    for path in paths:
        passphrase = find_passphrase(path)
        if passphrase is None:
            raise RootKeysUnusable(f"{path} has no passphrase beside it")
        signers.append(load_root_key(path, passphrase))
    return signers


def read_root_public(path: Path) -> bytes:
    """The raw public key in a file `root-….pub`. Raises: RootKeysUnusable."""
    try:
        key = load_pem_public_key(path.read_bytes()[:_FILE_LIMIT_BYTES])
    except (OSError, ValueError, UnsupportedAlgorithm):
        raise RootKeysUnusable(f"{path} is not a public key in PEM form") from None
    if not isinstance(key, Ed25519PublicKey):
        raise RootKeysUnusable(f"{path} is not an Ed25519 public key")
    return key.public_bytes_raw()


def _file_name(signer: Ed25519Signer) -> str:
    return f"root-{signer.kid[:16]}.key"


def _encrypt(signer: Ed25519Signer, passphrase: bytes) -> bytes:
    # The passphrase has 256 random bits: no work factor has to make up for it.
    return signer.private_key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.strip())
    )
