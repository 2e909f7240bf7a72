"""A platform of one test alone: its ledger can never be emptied."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from api.context import ApiContext, open_context
from api.settings import ApiSettings, ListenAddress
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.platform import bootstrap
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.store.package_files import PackageFiles
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.api.clients import Api
from tests.integration.deployments.builders import Clock, Platform
from tests.postgres import Database


@pytest.fixture
async def platform(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Platform]:
    """An initialised platform with one publisher, who may sign everything."""
    engine = create_engine(fresh_database.app_url, service="test", pool_size=10)
    sessions = session_maker(engine)
    clock = Clock()
    kek = LocalKeyProvider.open_or_create(tmp_path / KEK_FILE, clock)
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
    await files.prepare()
    made = Platform(sessions, keyring, kek, files, tmp_path, clock, Ed25519PrivateKey.generate())
    await made.register_publisher(made.publisher)
    yield made
    await engine.dispose()


@pytest.fixture
async def context(
    platform: Platform, fresh_database: Database, tmp_path: Path
) -> AsyncIterator[ApiContext]:
    """The api's process on the same platform."""
    settings = ApiSettings(
        database_url=fresh_database.app_url,
        data_dir=tmp_path,
        http=ListenAddress("127.0.0.1", 0),
        device=ListenAddress("127.0.0.1", 0),
        package_limit_bytes=200_000,
        downloads_per_fleet=1,
    )
    async with open_context(settings, clock=platform.clock) as context:
        yield context


@pytest.fixture
async def api(context: ApiContext) -> AsyncIterator[Api]:
    """The people's application, without a socket."""
    async with Api(context) as api:
        yield api
