"""A ledger of one test alone, and the CA that far ends have their certificates of."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.sinks.far_end import Authority
from tests.integration.sinks.lab import Lab
from tests.postgres import Database


@pytest.fixture
async def sessions(fresh_database: Database) -> AsyncIterator[SessionMaker]:
    """Sessions of the services' role."""
    engine = create_engine(fresh_database.app_url, service="test", pool_size=12)
    yield session_maker(engine)
    await engine.dispose()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("far-ends"))


@pytest.fixture
def lab(sessions: SessionMaker, authority: Authority, tmp_path: Path) -> Lab:
    kek = LocalKeyProvider.open_or_create(tmp_path / KEK_FILE)
    return Lab(sessions, kek, tmp_path, authority)
