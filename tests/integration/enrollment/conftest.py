"""A database, and a platform that was started in it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tensorguard.services.fleets.fleets import create_fleet
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tensorguard.vault.local import LocalKeyProvider
from tests.integration.enrollment.builders import FLEET, NOW, OPERATOR, Platform, start_platform
from tests.postgres import Database


@pytest.fixture
async def maker(fresh_database: Database) -> AsyncIterator[SessionMaker]:
    engine = create_engine(fresh_database.app_url, service="test", pool_size=10)
    yield session_maker(engine)
    await engine.dispose()


@pytest.fixture
def kek(tmp_path: Path) -> LocalKeyProvider:
    return LocalKeyProvider.open_or_create(tmp_path / "kek.json")


@pytest.fixture
async def platform(
    fresh_database: Database, maker: SessionMaker, kek: LocalKeyProvider, tmp_path: Path
) -> Platform:
    """A platform with one fleet."""
    root_dir = tmp_path / "root"
    await start_platform(maker, kek, root_dir)
    async with maker() as session, session.begin():
        keyring = await Keyring.load(session, kek)
        await create_fleet(session, keyring, slug=FLEET, name="Hospital A", by=OPERATOR, now=NOW)
    return Platform(fresh_database, maker, kek, root_dir, keyring)
