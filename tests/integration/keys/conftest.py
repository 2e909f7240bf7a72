"""A platform whose KEKs may be in this machine's file or at a strict fake of AWS."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tensorguard.services.keys.kek_providers import KekProviders
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.platform import bootstrap
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.store.package_files import PackageFiles
from tensorguard.vault.opening import Opener
from tensorguard.vault.reference import KekReference
from tests.integration.deployments.builders import Clock
from tests.integration.keys.builders import Vault, aws_provider
from tests.integration.vault import fake_aws
from tests.postgres import Database


@pytest.fixture
def kms() -> Iterator[fake_aws.FakeKms]:
    with fake_aws.running_kms() as kms:
        yield kms


@pytest.fixture
async def vault(
    fresh_database: Database, tmp_path: Path, kms: fake_aws.FakeKms
) -> AsyncIterator[Vault]:
    engine = create_engine(fresh_database.app_url, service="test", pool_size=10)
    sessions, clock = session_maker(engine), Clock()
    opener = Opener(
        tmp_path, clock=clock, instead={"aws": lambda key_id: aws_provider(kms, key_id)}
    )
    async with sessions.begin() as session:
        await bootstrap(
            session,
            kek=opener.open_first(KekReference("local")),
            trust_domain="example.org",
            root_dir=tmp_path / "root",
            now=clock.now,
            hash_with=lambda password: "not-a-hash",
        )
    async with sessions() as session:
        keks = await KekProviders.load(session, opener)
        keyring = await Keyring.load(session, keks)
    files = PackageFiles(tmp_path / "packages")
    await files.prepare()
    made = Vault(sessions, keyring, keks, files, tmp_path, clock, Ed25519PrivateKey.generate())
    await made.register_publisher(made.publisher)
    yield made
    await keks.close()
    await engine.dispose()
