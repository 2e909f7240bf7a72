"""The local key provider: KEKs in one file that only its owner can read."""

import asyncio
import fcntl
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tensorguard.vault.errors import (
    Corrupted,
    KeyDisabled,
    KeyMissing,
    Unavailable,
    VaultError,
    WrongContext,
)
from tensorguard.vault.private_file import create_private, read_private, replace_private
from tensorguard.vault.provider import Context, KeyDescription, WrappedKey, canonical_context

KEK_BYTES: Final = 32
WRAP_LIMIT_BYTES: Final = 64
NAME: Final = "local"
KEK_FILE: Final = "kek.json"  # in the data directory
_NONCE_BYTES: Final = 12
_FILE_LIMIT_BYTES: Final = 1024 * 1024


Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The system clock, aware UTC."""
    return datetime.now(UTC)


class _Version(msgspec.Struct, frozen=True, kw_only=True):
    version: Annotated[int, msgspec.Meta(ge=1)]
    key: Annotated[bytes, msgspec.Meta(min_length=KEK_BYTES, max_length=KEK_BYTES)]
    created_at: datetime
    state: Literal["enabled", "disabled"] = "enabled"


class _KekFile(msgspec.Struct, frozen=True, kw_only=True):
    v: Literal[1] = 1
    key_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    versions: Annotated[list[_Version], msgspec.Meta(min_length=1, max_length=1000)]


class LocalKeyProvider:
    """Wraps with AES-256-GCM under the newest KEK of a file; older versions unwrap.

    The file must be readable by its owner alone: mode 0600 or 0400.
    """

    name = NAME

    def __init__(self, path: Path, content: _KekFile, clock: Clock) -> None:
        self._path = path
        self._content = content
        self._clock = clock

    @classmethod
    def open(cls, path: Path, clock: Clock = utc_now) -> Self:
        """The provider over an existing KEK file.

        Raises: KeyMissing, PermissionDenied, Corrupted, Unavailable.
        """
        return cls(path, _read(path), clock)

    @classmethod
    def open_or_create(cls, path: Path, clock: Clock = utc_now) -> Self:
        """The provider over the KEK file at `path`, made with a first version if there is none.

        Of several that create it at the same time one wins, and all open the same file.
        Raises: PermissionDenied, Corrupted, Unavailable.
        """
        if not path.exists():
            first = _Version(version=1, key=secrets.token_bytes(KEK_BYTES), created_at=clock())
            content = _KekFile(key_id=f"local-{secrets.token_hex(8)}", versions=[first])
            create_private(path, msgspec.json.encode(content))
        return cls.open(path, clock)

    async def wrap(self, key: bytes, context: Context) -> WrappedKey:
        """Wrap at most 64 bytes under the current version. Raises: VaultError."""
        if not 1 <= len(key) <= WRAP_LIMIT_BYTES:
            raise VaultError(f"{len(key)} bytes are not a key", hint="Seal larger secrets instead.")
        current = self._current()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        bound = self._bound(current.version, context)
        wrapped = nonce + AESGCM(current.key).encrypt(nonce, key, bound)
        return WrappedKey(NAME, self._content.key_id, str(current.version), wrapped)

    async def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """Unwrap with the version that wrapped it. Raises: VaultError."""
        version = await self._version(wrapped)
        if len(wrapped.wrapped) <= _NONCE_BYTES + 16:
            raise Corrupted("the wrapped key is cut off")
        nonce, ciphertext = wrapped.wrapped[:_NONCE_BYTES], wrapped.wrapped[_NONCE_BYTES:]
        try:
            return AESGCM(version.key).decrypt(
                nonce, ciphertext, self._bound(version.version, context)
            )
        except InvalidTag:
            # AEAD cannot tell a changed ciphertext from another context, nor may it.
            raise WrongContext(
                f"the wrapped key does not open as {context.get('purpose')!r} of "
                f"{context.get('owner')!r}"
            ) from None

    async def describe(self) -> KeyDescription:
        """Tell which versions the file has."""
        versions = self._content.versions
        return KeyDescription(
            provider=NAME,
            key_id=self._content.key_id,
            current_version=str(versions[-1].version),
            versions=tuple(str(one.version) for one in versions),
            state=versions[-1].state,
        )

    async def rotate(self) -> KeyDescription:
        """Add a random new version to the file. Raises: VaultError."""
        return await self.import_key(secrets.token_bytes(KEK_BYTES))

    async def import_key(self, material: bytes) -> KeyDescription:
        """Add 32 bytes of the customer's as a new version to the file. Raises: VaultError."""
        if len(material) != KEK_BYTES:
            raise VaultError(
                f"a KEK has {KEK_BYTES} bytes, not {len(material)}",
                hint="Import raw key material of 256 bits.",
            )
        self._content = await asyncio.to_thread(_append, self._path, material, self._clock())
        return await self.describe()

    def _current(self) -> _Version:
        current = self._content.versions[-1]
        if current.state != "enabled":
            raise KeyDisabled(f"version {current.version} of {self._content.key_id} is disabled")
        return current

    async def _version(self, wrapped: WrappedKey) -> _Version:
        if (wrapped.provider, wrapped.key_id) != (NAME, self._content.key_id):
            raise KeyMissing(
                f"the secret is under {wrapped.provider}:{wrapped.key_id}, "
                f"{self._path} holds {NAME}:{self._content.key_id}"
            )
        version = _find(self._content, wrapped.key_version)
        if version is None:  # another process may have rotated since the file was read
            self._content = await asyncio.to_thread(_read, self._path)
            version = _find(self._content, wrapped.key_version)
        if version is None:
            raise KeyMissing(
                f"{self._path} has no version {wrapped.key_version} of {wrapped.key_id}"
            )
        if version.state != "enabled":
            raise KeyDisabled(f"version {version.version} of {wrapped.key_id} is disabled")
        return version

    def _bound(self, version: int, context: Context) -> bytes:
        return f"{self._content.key_id}/{version}\n".encode() + canonical_context(context)


def _find(content: _KekFile, key_version: str) -> _Version | None:
    return next((one for one in content.versions if str(one.version) == key_version), None)


def _read(path: Path) -> _KekFile:
    raw = read_private(path, _FILE_LIMIT_BYTES)
    try:
        content = msgspec.json.decode(raw, type=_KekFile)
    except (msgspec.MsgspecError, ValueError):
        # The parser's message may quote the file: it is not passed on.
        raise Corrupted(f"{path} is not a KEK file") from None
    numbers = [one.version for one in content.versions]
    if numbers != sorted(set(numbers)):
        raise Corrupted(f"{path} has versions out of order")
    return content


def _append(path: Path, material: bytes, now: datetime) -> _KekFile:
    """Add a version under a lock file, so that two rotations cannot lose one another's KEK."""
    lock = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"{lock} cannot be created: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        content = _read(path)
        added = _Version(version=content.versions[-1].version + 1, key=material, created_at=now)
        content = msgspec.structs.replace(content, versions=[*content.versions, added])
        replace_private(path, msgspec.json.encode(content))
    finally:
        os.close(descriptor)
    return content
