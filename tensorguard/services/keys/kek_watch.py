"""Looks at every KEK each minute: can it be used, which version is current, when does it end."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.errors import ServiceError
from tensorguard.services.keys.kek_changes import probe_usable
from tensorguard.services.keys.kek_providers import KekProviders, check_in_time
from tensorguard.services.keys.kek_trouble import note_trouble, warn_of_expiry
from tensorguard.services.keys.keks import Kek, get_kek, note_description
from tensorguard.services.keys.key_errors import KekRetired
from tensorguard.store import tables
from tensorguard.store.engine import SessionMaker
from tensorguard.vault.errors import (
    KeyDisabled,
    KeyMissing,
    KeyPendingDeletion,
    PermissionDenied,
    VaultError,
)
from tensorguard.vault.provider import KeyDescription

log = structlog.get_logger(__name__)
EVERY: Final = timedelta(seconds=60)
_LOOK_EVERY_S: Final = 10.0
_STATES: Final[dict[str, type[VaultError]]] = {
    "disabled": KeyDisabled,
    "pending-deletion": KeyPendingDeletion,
    "pending-import": KeyMissing,
}


class KekWatch:
    """Looks at each KEK once a minute, in whichever process comes first."""

    def __init__(
        self, sessions: SessionMaker, keks: KekProviders, clock: Callable[[], datetime]
    ) -> None:
        self._sessions = sessions
        self._keks = keks
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop`; what fails is looked at again in the next round."""
        while not stop.is_set():
            try:
                await self.step()
            except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
                log.error("keks_not_watched", reason=str(getattr(error, "orig", error)))
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await stop.wait()
            except TimeoutError:
                continue

    async def step(self) -> int:
        """Look at those that are due; return how many."""
        due = await self._take_due()
        await asyncio.gather(*(self._look_at(kek_id) for kek_id in due))
        return len(due)

    async def _take_due(self) -> list[UUID]:
        """Claim the KEKs that nobody has looked at for a minute."""
        table, now = tables.keks, self._clock()
        async with self._sessions.begin() as session:
            statement = (
                sa.update(table)
                .where(
                    table.c.state != "retired",
                    sa.or_(table.c.checked_at.is_(None), table.c.checked_at <= now - EVERY),
                )
                .values(checked_at=now)
                .returning(table.c.id)
            )
            return list((await session.execute(statement)).scalars())

    async def _look_at(self, kek_id: UUID) -> None:
        async with self._sessions() as session:
            kek = await get_kek(session, kek_id)
        seen = await _look(self._keks, kek, now=self._clock())
        try:
            async with self._sessions.begin() as session:
                await _note(session, kek_id, seen, now=self._clock())
        except ServiceError as error:
            log.error("kek_not_noted", kek=str(kek_id), reason=error.message)


async def check_kek(
    session: AsyncSession, keks: KekProviders, kek_id: UUID, *, now: datetime
) -> None:
    """Look at a KEK now; what is found, trouble too, is stored and told.

    Raises: KekNotFound, KekRetired.
    """
    kek = await get_kek(session, kek_id)
    if kek.state == "retired":
        raise KekRetired("this KEK is not in use any more")
    await _note(session, kek_id, await _look(keks, kek, now=now), now=now)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look has found; no description where the KEK's state is not ours to see."""

    description: KeyDescription | None = None
    trouble: VaultError | None = None


async def _look(keks: KekProviders, kek: Kek, *, now: datetime) -> _Seen:
    """Find out whether a KEK wraps and unwraps."""
    description = None
    try:
        check_in_time(kek, now)
        provider = await keks.open_kek(kek)
        with suppress(PermissionDenied):  # whoever may not look may still use it
            description = await provider.describe()
        if description is not None and description.state != "enabled":
            raise _STATES[description.state](f"the key is {description.state}")
        await probe_usable(provider)
    except VaultError as error:
        log.warning("kek_in_trouble", kek=str(kek.id), reason=error.code)
        return _Seen(trouble=error)
    return _Seen(description)


async def _note(session: AsyncSession, kek_id: UUID, seen: _Seen, *, now: datetime) -> None:
    """Store what a look has found, and tell what has changed. Raises: KekNotFound."""
    if seen.description is not None:
        await note_description(session, kek_id, seen.description, now=now)
    else:
        table = tables.keks
        await session.execute(sa.update(table).where(table.c.id == kek_id).values(checked_at=now))
    await note_trouble(session, kek_id, seen.trouble, now=now)
    await warn_of_expiry(session, kek_id, now=now)
