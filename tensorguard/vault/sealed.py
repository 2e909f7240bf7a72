"""Sealed secrets: what the database holds instead of a secret."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tensorguard.vault.errors import Corrupted, WrongContext
from tensorguard.vault.provider import Context, KeyProvider, WrappedKey, canonical_context

WORKING_KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A secret under AES-256-GCM with a random working key, which the provider's KEK wraps.

    `context` binds purpose and owner: a row copied to another row does not open.
    """

    provider: str
    key_id: str
    key_version: str
    wrapped: bytes
    nonce: bytes
    ciphertext: bytes
    context: Mapping[str, str]


async def seal(provider: KeyProvider, plaintext: bytes, context: Context) -> SealedSecret:
    """Seal `plaintext` for what `context` names. Raises: VaultError."""
    bound = canonical_context(context)
    working_key = secrets.token_bytes(WORKING_KEY_BYTES)
    nonce = secrets.token_bytes(NONCE_BYTES)
    ciphertext = AESGCM(working_key).encrypt(nonce, plaintext, bound)
    wrapped = await provider.wrap(working_key, context)
    return SealedSecret(
        wrapped.provider,
        wrapped.key_id,
        wrapped.key_version,
        wrapped.wrapped,
        nonce,
        ciphertext,
        dict(context),
    )


async def open_secret(provider: KeyProvider, sealed: SealedSecret, context: Context) -> bytes:
    """Open a secret that was sealed for exactly `context`. Raises: VaultError."""
    working_key = await _unwrap(provider, sealed, context)
    try:
        return AESGCM(working_key).decrypt(
            sealed.nonce, sealed.ciphertext, canonical_context(context)
        )
    except (InvalidTag, ValueError):
        raise Corrupted(f"the sealed secret {context.get('purpose')!r} was changed") from None


async def rewrap(
    source: KeyProvider, target: KeyProvider, sealed: SealedSecret, context: Context
) -> SealedSecret:
    """Move a sealed secret under the current version of `target`; its ciphertext stays.

    Raises: VaultError.
    """
    working_key = await _unwrap(source, sealed, context)
    wrapped = await target.wrap(working_key, context)
    return replace(
        sealed,
        provider=wrapped.provider,
        key_id=wrapped.key_id,
        key_version=wrapped.key_version,
        wrapped=wrapped.wrapped,
    )


async def _unwrap(provider: KeyProvider, sealed: SealedSecret, context: Context) -> bytes:
    if canonical_context(sealed.context) != canonical_context(context):
        raise WrongContext(
            f"a secret sealed for {dict(sealed.context)!r} was presented as {dict(context)!r}"
        )
    working_key = await provider.unwrap(
        WrappedKey(sealed.provider, sealed.key_id, sealed.key_version, sealed.wrapped), context
    )
    if len(working_key) != WORKING_KEY_BYTES:
        raise Corrupted("the provider answered with a key of another length")
    return working_key
