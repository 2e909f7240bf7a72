"""A hub of one test alone: its ledger can never be emptied."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hub.work import Work
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.platform import bootstrap
from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.hub.builders import Clock, Hub, add_fleet
from tests.postgres import Database


@pytest.fixture
async def sessions(clean_database: Database) -> AsyncIterator[SessionMaker]:
    """Sessions of the services' role, with one fleet; for tests that write no ledger."""
    engine = create_engine(clean_database.app_url, service="test", pool_size=8)
    made = session_maker(engine)
    await add_fleet(made, Clock().now)
    yield made
    await engine.dispose()


@asynccontextmanager
async def new_hub(
    database: Database, folder: Path, trust_domain: str, clock: Clock
) -> AsyncIterator[Hub]:
    """A hub of an initialised platform with one fleet; its KEK lies in the folder."""
    engine = create_engine(database.app_url, service="test", pool_size=8)
    made = session_maker(engine)
    kek = LocalKeyProvider.open_or_create(folder / KEK_FILE, clock)
    async with made.begin() as session:
        await bootstrap(
            session,
            kek=kek,
            trust_domain=trust_domain,
            root_dir=folder / "root",
            now=clock.now,
            hash_with=lambda password: "not-a-hash",
        )
    async with made() as session:
        keyring = await Keyring.load(session, kek)
    await add_fleet(made, clock.now)
    yield Hub(made, keyring, Work(made, keyring, kek, clock), clock)
    await engine.dispose()


@pytest.fixture
async def hub(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Hub]:
    """A hub of a platform of this test alone."""
    async with new_hub(fresh_database, tmp_path, "example.org", Clock()) as made:
        yield made
