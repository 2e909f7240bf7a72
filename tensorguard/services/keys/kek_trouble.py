"""What keeps a KEK from being used: stored with it, told once when it comes and when it goes."""

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import SYSTEM
from tensorguard.services.evidence.events import KekExpiring, KekUnusable, KekUsable
from tensorguard.services.hints import tell
from tensorguard.services.keys.keks import get_kek, hint_of
from tensorguard.store import tables
from tensorguard.vault.errors import VaultError

# What the owner of a key does to take it away. While it lasts no grant is given under that key,
# whatever is still in a cache.
TAKEN_AWAY: Final = frozenset(
    {"key-disabled", "key-missing", "key-pending-deletion", "key-permission-denied"}
)
WARN_BEFORE: Final = timedelta(days=14)


async def note_trouble(
    session: AsyncSession, kek_id: UUID, error: VaultError | None, *, now: datetime
) -> None:
    """Store that a KEK cannot be used and why, or with None that it can; tell what has changed.

    What may pass by itself, such as throttling, is stored and makes no entry in the ledger; whoever
    watches is told of that too.
    """
    kek = await get_kek(session, kek_id, lock=True)
    code = None if error is None else error.code
    if kek.state == "retired" or code == kek.trouble_code:
        return
    values: dict[str, Any] = {
        "trouble_code": code,
        "trouble_reason": None if error is None else error.message[:500],
        "trouble_since": None if error is None else now,
    }
    await session.execute(sa.update(tables.keks).where(tables.keks.c.id == kek_id).values(values))
    await tell(session, [hint_of(kek_id)], now=now)
    if code in TAKEN_AWAY:
        event = KekUnusable(by=SYSTEM, fleet=kek.fleet, kek_id=kek_id, reason=str(code))
        await ledger.record(session, event, now=now)
    elif kek.trouble_code in TAKEN_AWAY and kek.trouble_since is not None:
        usable = KekUsable(by=SYSTEM, fleet=kek.fleet, kek_id=kek_id, since=kek.trouble_since)
        await ledger.record(session, usable, now=now)


async def warn_of_expiry(session: AsyncSession, kek_id: UUID, *, now: datetime) -> bool:
    """Tell once, two weeks before, that a KEK's imported material ends; whether it was told now."""
    kek = await get_kek(session, kek_id, lock=True)
    if kek.expires_at is None or kek.expires_at - now > WARN_BEFORE or kek.state == "retired":
        return False
    if kek.expiry_told_at is not None:
        return False
    await session.execute(
        sa.update(tables.keks).where(tables.keks.c.id == kek_id).values(expiry_told_at=now)
    )
    event = KekExpiring(by=SYSTEM, fleet=kek.fleet, kek_id=kek_id, expires_at=kek.expires_at)
    await ledger.record(session, event, now=now)
    return True
