"""What every key provider does: wrap small keys under a KEK that it keeps to itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol

import rfc8785

from tensorguard.vault.errors import VaultError, WrongContext

Context = Mapping[str, str]
KeyState = Literal["enabled", "disabled", "pending-deletion", "pending-import"]
WrappingAlgorithm = Literal["rsa-oaep-sha256", "rsa-aes-key-wrap-sha1"]

WRAP_LIMIT_BYTES: Final = 64
_DOMAIN = b"tensorguard/context/v1\n"
_REQUIRED = frozenset({"purpose", "owner"})


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key under a KEK: which provider, key and version can unwrap it, and the bytes."""

    provider: str
    key_id: str
    key_version: str
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """A KEK as its provider sees it now; new wraps use `current_version`.

    `versions` are those that unwrap, or would if they were not in `disabled`, the oldest first.
    """

    provider: str
    key_id: str
    current_version: str
    versions: tuple[str, ...]
    state: KeyState
    disabled: tuple[str, ...] = ()
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ImportParameters:
    """What a customer wraps key material with, offline, so that only the provider can read it.

    `token` goes back to the provider unchanged, together with the wrapped material.
    """

    provider: str
    key_id: str
    algorithm: WrappingAlgorithm
    public_key_pem: str
    token: str
    valid_until: datetime
    material: Literal["aes-256", "rsa-private-key"] = "aes-256"


class KeyProvider(Protocol):
    """One KEK in one provider. Every method raises VaultError, one of its kinds.

    `wrap` and `unwrap` bind the context: a key unwraps only under the context it was wrapped with.
    """

    @property
    def name(self) -> str:
        """The kind of provider, such as `local`."""
        ...

    async def wrap(self, key: bytes, context: Context) -> WrappedKey:
        """Wrap at most 64 bytes of key under the current version."""
        ...

    async def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """Give back what `wrap` was given, under whichever version wrapped it."""
        ...

    async def describe(self) -> KeyDescription:
        """Tell what the KEK is and in which state."""
        ...

    async def rotate(self) -> KeyDescription:
        """Make a new version, which new wraps use; older ones still unwrap."""
        ...

    async def import_key(
        self, material: bytes, *, expires_at: datetime | None = None
    ) -> KeyDescription:
        """Make key material that the customer brings (BYOK) the version that new wraps use."""
        ...


class ManagedProvider(KeyProvider, Protocol):
    """A provider whose KEK is managed from here."""

    async def get_import_parameters(self) -> ImportParameters:
        """Ask for the public key that material has to be wrapped with, for a day."""
        ...

    async def import_wrapped(
        self, wrapped: bytes, *, token: str, expires_at: datetime | None = None
    ) -> KeyDescription:
        """Import material that was wrapped offline with the import parameters of `token`."""
        ...

    async def set_version_enabled(self, version: str, *, enabled: bool) -> KeyDescription:
        """Disable a version, or enable it again; whether rows need it the caller has checked."""
        ...

    async def destroy_version(self, version: str) -> KeyDescription:
        """Destroy a version for good; whether rows need it the caller has checked."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


def canonical_context(context: Context) -> bytes:
    """The bytes that a secret is bound to: RFC 8785 JSON behind a domain prefix.

    No two contexts share them, whatever their keys and values hold. Raises: WrongContext if the
    context does not name at least a purpose and an owner.
    """
    if not all(context.get(name) for name in _REQUIRED):
        raise WrongContext(
            "a context names at least purpose and owner",
            hint='Pass {"purpose": …, "owner": …} with texts that are not empty.',
        )
    return _DOMAIN + rfc8785.dumps(dict(context))


def check_wrappable(key: bytes) -> None:
    """Refuse what is not a key. Raises: VaultError."""
    if not 1 <= len(key) <= WRAP_LIMIT_BYTES:
        raise VaultError(f"{len(key)} bytes are not a key", hint="Seal larger secrets instead.")


def wrong_context(context: Context) -> WrongContext:
    """The error of a wrapped key that does not open under `context`."""
    return WrongContext(
        f"the wrapped key does not open as {context.get('purpose')!r} of {context.get('owner')!r}"
    )
