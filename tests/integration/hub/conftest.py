"""A hub of one test alone: its ledger can never be emptied."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hub.work import Work
from tensorguard.services.keyring import Keyring
from tensorguard.services.platform import bootstrap
from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tensorguard.vault.local import LocalKeyProvider
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


@pytest.fixture
async def hub(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Hub]:
    """A hub of an initialised platform with one fleet."""
    clock = Clock()
    engine = create_engine(fresh_database.app_url, service="test", pool_size=8)
    made = session_maker(engine)
    kek = LocalKeyProvider.open_or_create(tmp_path / "kek.json", clock)
    async with made.begin() as session:
        await bootstrap(
            session,
            kek=kek,
            trust_domain="example.org",
            root_dir=tmp_path / "root",
            now=clock.now,
            hash_with=lambda password: "not-a-hash",
        )
    async with made() as session:
        keyring = await Keyring.load(session, kek)
    await add_fleet(made, clock.now)
    yield Hub(made, keyring, Work(made, keyring, kek, clock), clock)
    await engine.dispose()
