"""Whoever holds the CA's key, for fronts that run without a hub and an api."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from tensorguard.services.certificates.certifier import Certifier
from tensorguard.services.certificates.service_certificates import allowed_hosts
from tensorguard.services.keys.following import KeyringFollower
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider


@contextlib.asynccontextmanager
async def running_signer(database_url: str, data_dir: Path, *hosts: str) -> AsyncIterator[Keyring]:
    """Answer fronts that ask for their certificate, as hub and api do, while the block runs."""
    engine = create_engine(database_url, service="signer", pool_size=2)
    sessions = session_maker(engine)
    kek = LocalKeyProvider.open(data_dir / KEK_FILE)
    async with sessions() as session:
        keyring = await Keyring.load(session, kek, only={"ca"})
    clock = lambda: datetime.now(UTC)  # noqa: E731  read once, right here
    certifier = Certifier(sessions, keyring, database_url, allowed_hosts(*hosts), clock)
    follower = KeyringFollower(keyring, kek, sessions, database_url)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(certifier.run(stop))
        tasks.create_task(follower.run(stop))
        try:
            yield keyring
        finally:
            stop.set()
    await engine.dispose()
