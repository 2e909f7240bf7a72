"""The file with this machine's KEKs: readable by its owner alone, perhaps under a passphrase."""

import fcntl
import os
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from tensorguard.vault.errors import Corrupted, PermissionDenied, Unavailable
from tensorguard.vault.private_file import create_private, read_private, replace_private

KEK_BYTES: Final = 32
_FILE_LIMIT_BYTES: Final = 1024 * 1024
_NONCE_BYTES: Final = 12
# RFC 9106, section 4, the second recommended option: it also fits small machines.
_MEMORY_KIB: Final = 64 * 1024
_ITERATIONS: Final = 3
_LANES: Final = 4


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One KEK; in a protected file `key` is its nonce and ciphertext."""

    version: Annotated[int, msgspec.Meta(ge=1)]
    key: Annotated[bytes, msgspec.Meta(min_length=KEK_BYTES, max_length=60)]
    created_at: datetime
    state: Literal["enabled", "disabled"] = "enabled"
    expires_at: datetime | None = None


class Protection(msgspec.Struct, frozen=True, kw_only=True):
    """How the key that protects the file comes from a passphrase (argon2id, RFC 9106)."""

    salt: Annotated[bytes, msgspec.Meta(min_length=16, max_length=64)]
    memory_kib: Annotated[int, msgspec.Meta(ge=8, le=4 * 1024 * 1024)] = _MEMORY_KIB
    iterations: Annotated[int, msgspec.Meta(ge=1, le=100)] = _ITERATIONS
    lanes: Annotated[int, msgspec.Meta(ge=1, le=64)] = _LANES


class KekFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the file holds; outside this module the keys are in the clear."""

    v: Literal[1] = 1
    key_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    versions: Annotated[list[Version], msgspec.Meta(min_length=1, max_length=1000)]
    protection: Protection | None = None


def create_file(path: Path, content: KekFile, passphrase: bytes | None) -> None:
    """Write a new file, unless another process was first. Raises: Unavailable."""
    if passphrase is not None:
        protection = Protection(salt=secrets.token_bytes(16))
        content = msgspec.structs.replace(content, protection=protection)
    create_private(path, _encode(content, passphrase))


def read_file(path: Path, passphrase: bytes | None) -> KekFile:
    """Read the file. Raises: KeyMissing, PermissionDenied, Corrupted, Unavailable."""
    raw = read_private(path, _FILE_LIMIT_BYTES)
    try:
        content = msgspec.json.decode(raw, type=KekFile)
    except (msgspec.MsgspecError, ValueError):
        # The parser's message may quote the file: it is not passed on.
        raise Corrupted(f"{path} is not a KEK file") from None
    numbers = [one.version for one in content.versions]
    if numbers != sorted(set(numbers)):
        raise Corrupted(f"{path} has versions out of order")
    return _opened(path, content, passphrase)


def change_file(
    path: Path, passphrase: bytes | None, change: Callable[[KekFile], KekFile]
) -> KekFile:
    """Change the file under a lock, so that two changes at a time cannot lose one another's KEK.

    Raises: KeyMissing, PermissionDenied, Corrupted, Unavailable.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"{lock} cannot be created: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        content = change(read_file(path, passphrase))
        replace_private(path, _encode(content, passphrase))
    finally:
        os.close(descriptor)
    return content


def _opened(path: Path, content: KekFile, passphrase: bytes | None) -> KekFile:
    if content.protection is None:
        if any(len(one.key) != KEK_BYTES for one in content.versions):
            raise Corrupted(f"{path} is not a KEK file")
        return content
    if passphrase is None:
        raise PermissionDenied(
            f"{path} is protected by a passphrase",
            hint="Give it in a file that TG_KEK_PASSPHRASE_FILE names.",
        )
    cipher = _cipher(content.protection, passphrase)
    try:
        versions = [
            msgspec.structs.replace(
                one,
                key=cipher.decrypt(
                    one.key[:_NONCE_BYTES], one.key[_NONCE_BYTES:], _bound(content, one)
                ),
            )
            for one in content.versions
        ]
    except (InvalidTag, ValueError):
        raise PermissionDenied(
            f"{path} does not open with this passphrase",
            hint="Give the passphrase that the file was made with.",
        ) from None
    return msgspec.structs.replace(content, versions=versions)


def _encode(content: KekFile, passphrase: bytes | None) -> bytes:
    if content.protection is not None:
        assert passphrase is not None, "a protected file was opened with its passphrase"
        cipher = _cipher(content.protection, passphrase)
        versions = []
        for one in content.versions:
            nonce = secrets.token_bytes(_NONCE_BYTES)
            sealed = nonce + cipher.encrypt(nonce, one.key, _bound(content, one))
            versions.append(msgspec.structs.replace(one, key=sealed))
        content = msgspec.structs.replace(content, versions=versions)
    return msgspec.json.encode(content)


def _cipher(protection: Protection, passphrase: bytes) -> AESGCM:
    kdf = Argon2id(
        salt=protection.salt,
        length=KEK_BYTES,
        iterations=protection.iterations,
        lanes=protection.lanes,
        memory_cost=protection.memory_kib,
    )
    return AESGCM(kdf.derive(passphrase.strip()))


def _bound(content: KekFile, version: Version) -> bytes:
    return f"tensorguard/kek-file/v1\n{content.key_id}/{version.version}".encode()
