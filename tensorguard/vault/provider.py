"""What every key provider does: wrap small keys under a KEK that it keeps to itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import rfc8785

from tensorguard.vault.errors import WrongContext

Context = Mapping[str, str]

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
    """A KEK as its provider sees it now; new wraps use `current_version`."""

    provider: str
    key_id: str
    current_version: str
    versions: tuple[str, ...]
    state: Literal["enabled", "disabled", "pending-deletion"]


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

    async def import_key(self, material: bytes) -> KeyDescription:
        """Make 32 bytes that the customer brings (BYOK) the new version."""
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
