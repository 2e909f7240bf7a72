"""A controller in a process of its own that is killed, as by kill -9, before a given commit."""

import asyncio
import os
import signal
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from hub.rollouts import RolloutController
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider


def step_until_killed(database_url: str, folder: Path, now: datetime, commit: int) -> None:
    """Do one step of the controller, and die right before its transaction number `commit` ends."""
    asyncio.run(_step(database_url, folder, now, commit))


async def _step(database_url: str, folder: Path, now: datetime, commit: int) -> None:
    engine = create_engine(database_url, service="killed", pool_size=2)
    kek = LocalKeyProvider.open_or_create(folder / KEK_FILE, lambda: now)
    sessions = session_maker(engine)
    async with sessions() as session:
        keyring = await Keyring.load(session, kek)
    left = commit

    @sa.event.listens_for(engine.sync_engine, "commit")
    def kill(connection: sa.Connection) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    await RolloutController(sessions, keyring, clock=lambda: now, batch_agents=2).step()
    await engine.dispose()
