"""An api that takes uploads in, with either package store, and people who send them by curl."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import boto3
import pytest

from api.context import ApiContext, open_context
from api.serve import serving
from api.settings import ApiSettings, ListenAddress
from tensorguard.services.evidence.event import SYSTEM
from tensorguard.services.people.access import Role
from tensorguard.services.people.api_keys import create_api_key
from tests.integration.deployments.builders import Platform
from tests.integration.deployments.conftest import platform as platform
from tests.integration.moto import running_moto
from tests.integration.uploads.curl import Curl
from tests.integration.uploads.store import Bucket, Files, Store
from tests.postgres import Database


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    with running_moto() as url:
        yield url


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket; the SDK finds everything in the environment, as in a service."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-bucket")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    name = f"packages-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=name)
    return Bucket(client, name)


@pytest.fixture(params=["files", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """What the api keeps packages in."""
    if request.param == "files":
        return Files(tmp_path / "packages")
    found = request.getfixturevalue("bucket")
    assert isinstance(found, Bucket)
    return found


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "packages")


@pytest.fixture
async def context(
    platform: Platform, fresh_database: Database, tmp_path: Path, store: Store
) -> AsyncIterator[ApiContext]:
    settings = ApiSettings(
        database_url=fresh_database.app_url,
        data_dir=tmp_path,
        http=ListenAddress("127.0.0.1", 0),
        device=ListenAddress("127.0.0.1", 0),
        package_limit_bytes=40 * 1024 * 1024,
        package_store=store.url,
        uploads_per_user=3,
    )
    async with open_context(settings, clock=platform.clock) as context:
        yield context


@pytest.fixture
async def curl(context: ApiContext, tmp_path: Path) -> AsyncIterator[Curl]:
    """curl with an engineer's API key, on the people's listener."""
    async with serving(context) as listening:
        url = f"http://127.0.0.1:{listening.people.port}"
        yield Curl(url, await new_key(context), tmp_path)


async def new_key(context: ApiContext, role: Role = Role.MLOPS) -> str:
    async with context.sessions.begin() as session:
        made = await create_api_key(
            session, name="engineer", role=role, by=SYSTEM, now=context.clock()
        )
    return made.key
