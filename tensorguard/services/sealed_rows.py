"""Sealed secrets as rows of the table `secrets`, which open only with the KEK."""

from datetime import datetime
from hmac import compare_digest

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.store import tables
from tensorguard.vault.errors import KeyMissing, WrongContext
from tensorguard.vault.provider import KeyProvider, canonical_context
from tensorguard.vault.sealed import SealedSecret, open_secret, seal


async def store_secret(
    session: AsyncSession,
    kek: KeyProvider,
    plaintext: bytes,
    *,
    purpose: str,
    owner: str,
    now: datetime,
) -> str:
    """Seal a secret for its purpose and owner, and return the id of its row.

    Raises: VaultError.
    """
    context = {"purpose": purpose, "owner": owner}
    sealed = await seal(kek, plaintext, context)
    secret_id = f"{purpose}:{owner}"
    await session.execute(
        sa.insert(tables.secrets).values(
            id=secret_id,
            purpose=purpose,
            owner=owner,
            provider=sealed.provider,
            key_id=sealed.key_id,
            key_version=sealed.key_version,
            wrapped=sealed.wrapped,
            nonce=sealed.nonce,
            ciphertext=sealed.ciphertext,
            context=canonical_context(context),
            created_at=now,
        )
    )
    return secret_id


async def open_stored(
    session: AsyncSession, kek: KeyProvider, *, purpose: str, owner: str
) -> bytes:
    """Open the secret that was stored for this purpose and owner.

    Raises: KeyMissing if there is none, VaultError.
    """
    row = (
        await session.execute(
            sa.select(tables.secrets).where(tables.secrets.c.id == f"{purpose}:{owner}")
        )
    ).one_or_none()
    if row is None:
        raise KeyMissing(
            f"the database holds no secret {purpose!r} of {owner!r}",
            hint="Restore the database and its KEK from the same backup.",
        )
    return await open_row(kek, row._mapping, purpose=purpose, owner=owner)


async def open_row(kek: KeyProvider, row: sa.RowMapping, *, purpose: str, owner: str) -> bytes:
    """Open a row of `secrets` that the caller has read for this purpose and owner.

    Raises: VaultError.
    """
    context = {"purpose": purpose, "owner": owner}
    if not compare_digest(row["context"], canonical_context(context)):
        raise WrongContext(f"row {row['id']!r} is not the secret {purpose!r} of {owner!r}")
    sealed = SealedSecret(
        provider=row["provider"],
        key_id=row["key_id"],
        key_version=row["key_version"],
        wrapped=row["wrapped"],
        nonce=row["nonce"],
        ciphertext=row["ciphertext"],
        context=context,
    )
    return await open_secret(kek, sealed, context)
