"""Sealed secrets as rows of the table `secrets`, which open only with the KEK."""

from datetime import datetime
from hmac import compare_digest

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.keys.kek_providers import KekProviders, find_provider
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
    fleet: str | None = None,
) -> str:
    """Seal a secret for its purpose and owner, and return the id of its row.

    It goes under the platform's active KEK, or under that of a fleet that has its own. A fleet's
    secret that is there already stays as it is.
    Raises: VaultError.
    """
    context = {"purpose": purpose, "owner": owner}
    provider: KeyProvider = kek
    if isinstance(kek, KekProviders):
        provider = await kek.find_for_new(session, fleet, now)
    sealed = await seal(provider, plaintext, context)
    secret_id = f"{purpose}:{owner}"
    statement = insert(tables.secrets)
    if fleet is not None:
        statement = statement.on_conflict_do_nothing()
    await session.execute(
        statement.values(
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
            fleet=fleet,
        )
    )
    return secret_id


async def open_stored(
    session: AsyncSession, kek: KeyProvider, *, purpose: str, owner: str
) -> bytes:
    """Open the secret that was stored for this purpose and owner.

    Raises: KeyMissing if there is none, VaultError.
    """
    opened = await find_stored(session, kek, purpose=purpose, owner=owner)
    if opened is None:
        raise KeyMissing(
            f"the database holds no secret {purpose!r} of {owner!r}",
            hint="Restore the database and its KEK from the same backup.",
        )
    return opened


async def find_stored(
    session: AsyncSession, kek: KeyProvider, *, purpose: str, owner: str
) -> bytes | None:
    """Open a secret if there is one for this purpose and owner. Raises: VaultError."""
    table = tables.secrets
    query = sa.select(table).where(table.c.id == f"{purpose}:{owner}")
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    provider = await find_provider(session, kek, row.provider, row.key_id)
    return await _open_row(provider, row._mapping, purpose=purpose, owner=owner)


async def _open_row(kek: KeyProvider, row: sa.RowMapping, *, purpose: str, owner: str) -> bytes:
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
