"""A database of each test alone: what is revoked stays so."""

from collections.abc import AsyncIterator

import pytest

from tensorguard.store.engine import create_engine, session_maker
from tests.integration.approvals.builders import Office
from tests.integration.revocations.builders import Site
from tests.postgres import Database


@pytest.fixture
async def site(fresh_database: Database) -> AsyncIterator[Site]:
    engine = create_engine(fresh_database.app_url, service="test", pool_size=10)
    yield Site(session_maker(engine))
    await engine.dispose()


@pytest.fixture
def office(site: Site, fresh_database: Database) -> Office:
    """People in the same database."""
    return Office(site.sessions, fresh_database)
