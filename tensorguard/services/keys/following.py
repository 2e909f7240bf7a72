"""Keeps a running service's keyring at what the database says: a new trust bundle, another CA."""

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

import psycopg
import structlog

from tensorguard.services.keys.kek_providers import KekProviders
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import SessionMaker, listening
from tensorguard.vault.provider import KeyProvider

log = structlog.get_logger()
CHANNEL: Final = "tg_trust"
POLL_EVERY: Final = timedelta(seconds=5)
_RETRY_S: Final = 2.0


class KeyringFollower:
    """Reloads a keyring when it is told to and every few seconds; whatever fails, it serves on."""

    def __init__(
        self,
        keyring: Keyring,
        kek: KeyProvider | None,
        sessions: SessionMaker,
        database_url: str,
        on_change: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._keyring = keyring
        self._kek = kek
        self._sessions = sessions
        self._database_url = database_url
        self._on_change = on_change

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop`."""
        while not stop.is_set():
            try:
                async with listening(self._database_url, CHANNEL) as connection:
                    while not stop.is_set():
                        await self.step()
                        await wait_for_notice(connection, stop, POLL_EVERY)
            except Exception as error:  # a database that is away, a locked KEK: the next round
                reason = f"{type(error).__name__}: {error}"[:300]
                log.warning("keyring_not_followed", reason=reason)
                await asyncio.sleep(random.uniform(0.1, _RETRY_S))  # noqa: S311  spreads load only

    async def step(self) -> bool:
        """Take over what has changed; tell whether anything has."""
        async with self._sessions() as session:
            if isinstance(self._kek, KekProviders):
                await self._kek.reload(session)
            changed = await self._keyring.reload(session, self._kek)
        if changed:
            log.info("keyring_changed", trust_version=self._keyring.trust.version)
            for tell in self._on_change:
                tell()
        return changed


async def wait_for_notice(
    connection: psycopg.AsyncConnection[tuple[object, ...]], stop: asyncio.Event, most: timedelta
) -> None:
    """Return at a notification, at `stop`, or when the time is over. Raises: psycopg.Error."""

    async def listen() -> None:
        async for _ in connection.notifies(timeout=most.total_seconds(), stop_after=1):
            return

    waits = [asyncio.ensure_future(listen()), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if waits[0].done():
            waits[0].result()
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
