"""One database for these tests, which commit: every test has people of its own."""

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from tensorguard.store.engine import create_engine, session_maker
from tests.integration.approvals.builders import Office
from tests.postgres import Database, Server


@pytest.fixture(scope="session")
def office_database(postgres: Server) -> Iterator[Database]:
    name = f"tg_approvals_{secrets.token_hex(4)}"
    yield postgres.clone(name)
    postgres.drop(name)


@pytest.fixture
async def office(office_database: Database) -> AsyncIterator[Office]:
    engine = create_engine(office_database.app_url, service="test", pool_size=8)
    yield Office(session_maker(engine), office_database)
    await engine.dispose()
