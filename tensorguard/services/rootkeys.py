"""Root keys, which sign trust bundles: files that belong off this machine, read by no service."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tensorguard.pki.keys import Ed25519Signer
from tensorguard.services.errors import RootKeysUnusable
from tensorguard.vault.private_file import create_private, read_private

# The second is a spare: whoever loses one can still publish, and name new ones.
ROOT_KEYS: Final = 2
ROOT_THRESHOLD: Final = 1
_PASSPHRASE: Final = "root-passphrase"  # noqa: S105 - the name of a file
_FILE_LIMIT_BYTES: Final = 64 * 1024


def ensure_root_keys(root_dir: Path) -> list[Ed25519Signer]:
    """The root keys in `root_dir`, made where they are missing, in files of mode 0600.

    Keys that an earlier start made before it was killed are taken over, so that nothing but the
    commit of the trust bundle decides whether the platform exists.
    Raises: RootKeysUnusable, VaultError.
    """
    existing = sorted(root_dir.glob("root-*.key"))
    passphrase_file = root_dir / _PASSPHRASE
    if existing and not passphrase_file.exists():
        raise RootKeysUnusable(f"{root_dir} has root keys but no {_PASSPHRASE}")
    create_private(passphrase_file, secrets.token_urlsafe(32).encode() + b"\n")
    passphrase = read_private(passphrase_file, _FILE_LIMIT_BYTES)
    signers = load_root_keys(existing, passphrase)
    while len(signers) < ROOT_KEYS:
        signer = Ed25519Signer.generate()
        create_private(root_dir / f"root-{signer.kid[:16]}.key", _encrypt(signer, passphrase))
        signers.append(signer)
    return signers


def load_root_keys(paths: Sequence[Path], passphrase: bytes) -> list[Ed25519Signer]:
    """The root keys in these files, for an operator's command.

    Raises: RootKeysUnusable, VaultError.
    """
    return [_load(path, passphrase.strip()) for path in paths]


def load_root_directory(root_dir: Path) -> list[Ed25519Signer]:
    """The root keys of a directory that still holds their passphrase.

    Raises: RootKeysUnusable, VaultError.
    """
    paths = sorted(root_dir.glob("root-*.key"))
    if not paths:
        raise RootKeysUnusable(f"{root_dir} has no root-*.key")
    return load_root_keys(paths, read_private(root_dir / _PASSPHRASE, _FILE_LIMIT_BYTES))


def _encrypt(signer: Ed25519Signer, passphrase: bytes) -> bytes:
    # The passphrase has 256 random bits: no work factor has to make up for it.
    return signer.private_key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.strip())
    )


def _load(path: Path, passphrase: bytes) -> Ed25519Signer:
    try:
        key = load_pem_private_key(read_private(path, _FILE_LIMIT_BYTES), password=passphrase)
    except (ValueError, TypeError):
        raise RootKeysUnusable(f"{path} does not open with the passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise RootKeysUnusable(f"{path} is not an Ed25519 key")
    return Ed25519Signer(key)
