"""DEKs under a fleet's own KEK: a copy of each that the fleet's agents ask for.

A package's DEK is under the platform's KEK. A fleet that brings a key gets grants only from copies
under that key: without it no copy opens and none is made, so no agent of the fleet gets a grant.
"""

from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.keys.sealed_rows import find_stored, open_stored, store_secret
from tensorguard.store.tables import secrets
from tensorguard.vault.provider import KeyProvider

PURPOSE_DEK: Final = "dek"
PURPOSE_FLEET_DEK: Final = "fleet-dek"


async def open_dek(
    session: AsyncSession, kek: KeyProvider, digest: bytes, fleet: str | None, *, now: datetime
) -> bytes:
    """Open the DEK of a package for a fleet; None: for a fleet under the platform's KEK.

    The fleet's copy is made when it is asked for first. Raises: VaultError.
    """
    if fleet is None:
        return await open_stored(session, kek, purpose=PURPOSE_DEK, owner=digest.hex())
    owner = f"{digest.hex()}/{fleet}"
    copy = await find_stored(session, kek, purpose=PURPOSE_FLEET_DEK, owner=owner)
    if copy is None:
        dek = await open_stored(session, kek, purpose=PURPOSE_DEK, owner=digest.hex())
        await store_secret(
            session, kek, dek, purpose=PURPOSE_FLEET_DEK, owner=owner, now=now, fleet=fleet
        )
        return dek
    return copy


async def forget_fleet_deks(session: AsyncSession, fleet: str) -> None:
    """Delete a fleet's copies: its KEK is replaced or removed."""
    await session.execute(
        sa.delete(secrets).where(secrets.c.fleet == fleet, secrets.c.purpose == PURPOSE_FLEET_DEK)
    )
