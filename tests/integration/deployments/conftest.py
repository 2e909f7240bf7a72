"""A platform of one test alone: its ledger can never be emptied."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tensorguard.services.keyring import Keyring
from tensorguard.services.platform import bootstrap
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.store.package_files import PackageFiles
from tensorguard.vault.local import LocalKeyProvider
from tests.integration.deployments.builders import Clock, Platform
from tests.postgres import Database


@pytest.fixture
async def platform(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Platform]:
    """An initialised platform with one publisher, who may sign everything."""
    engine = create_engine(fresh_database.app_url, service="test", pool_size=10)
    sessions = session_maker(engine)
    clock = Clock()
    kek = LocalKeyProvider.open_or_create(tmp_path / "kek.json", clock)
    async with sessions.begin() as session:
        await bootstrap(
            session,
            kek=kek,
            trust_domain="example.org",
            root_dir=tmp_path / "root",
            now=clock.now,
            hash_with=lambda password: "not-a-hash",
        )
    async with sessions() as session:
        keyring = await Keyring.load(session, kek)
    files = PackageFiles(tmp_path / "packages")
    files.prepare()
    made = Platform(sessions, keyring, kek, files, tmp_path, clock, Ed25519PrivateKey.generate())
    await made.register_publisher(made.publisher)
    yield made
    await engine.dispose()
