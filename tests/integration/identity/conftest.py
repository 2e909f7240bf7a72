"""A platform of one test alone: it turns the clock."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.identity.stack import Stack, running_stack
from tests.postgres import Database


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """The broker engine: embedded, but where a test asks for others by `each_engine`."""
    return str(getattr(request, "param", "embedded"))


@pytest.fixture
async def parts(fresh_database: Database, tmp_path: Path, engine: str) -> AsyncIterator[Stack]:
    """A platform whose front and hub the test starts."""
    async with running_stack(fresh_database, tmp_path, engine) as stack:
        yield stack


@pytest.fixture
async def stack(parts: Stack) -> AsyncIterator[Stack]:
    """A platform with one front and one hub."""
    async with parts.running_front(), parts.running_hub():
        yield parts
        for running in parts.agents:
            await running.stop()
        parts.agents.clear()
