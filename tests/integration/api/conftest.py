"""A platform that was bootstrapped once, and the real application on it for each test."""

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from pydantic import SecretStr

from api.context import ApiContext, open_context
from api.serve import Listening, serving
from api.settings import ApiSettings, ListenAddress
from tensorguard.services.people.passwords import hash_password
from tensorguard.services.platform import bootstrap
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.api.audit import SILENT, watching_routes
from tests.integration.api.clients import Api
from tests.postgres import Server

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture(scope="session")
def platform(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiSettings]:
    """Settings of a platform with a database of its own; its admin is admin@tensorguard.local."""
    name = f"tg_api_{secrets.token_hex(4)}"
    database = postgres.clone(name)
    data_dir = tmp_path_factory.mktemp("data")
    password = asyncio.run(_bootstrap(database.app_url, data_dir))
    (data_dir / "password").write_text(password)
    yield ApiSettings(
        database_url=SecretStr(database.app_url),
        data_dir=data_dir,
        http=ListenAddress("127.0.0.1", 0),
        device=ListenAddress("127.0.0.1", 8443),
        database_connections=4,
    )
    postgres.drop(name)


async def _bootstrap(url: str, data_dir: Path) -> str:
    engine = create_engine(url, service="test")
    async with session_maker(engine).begin() as session:
        made = await bootstrap(
            session,
            kek=LocalKeyProvider.open_or_create(data_dir / KEK_FILE),
            trust_domain="tensorguard.local",
            root_dir=data_dir,
            now=datetime.now(UTC),
            hash_with=lambda password: hash_password(password, CHEAP),
        )
    await engine.dispose()
    assert made.admin_password is not None
    return made.admin_password


@pytest.fixture(autouse=True)
def _no_change_without_an_event() -> Iterator[None]:
    """Whatever a test here asks of a route: what changes data writes an event with it."""
    with watching_routes() as found:
        yield
    assert [line for line in found if SILENT not in line] == []


@pytest.fixture
def admin_password(platform: ApiSettings) -> str:
    return (platform.data_dir / "password").read_text()


@pytest.fixture
async def context(platform: ApiSettings) -> AsyncIterator[ApiContext]:
    async with open_context(platform, hasher=CHEAP) as context:
        yield context


@pytest.fixture
async def api(context: ApiContext) -> AsyncIterator[Api]:
    """The people's application, without a socket."""
    async with Api(context) as api:
        yield api


@pytest.fixture
async def listening(context: ApiContext) -> AsyncIterator[Listening]:
    """Both listeners on real sockets."""
    free = context.settings.model_copy(update={"device": ListenAddress("127.0.0.1", 0)})
    async with serving(dataclasses.replace(context, settings=free)) as listening:
        yield listening
