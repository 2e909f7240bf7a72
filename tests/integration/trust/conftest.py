from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.trust.site import Site, new_site
from tests.postgres import Database


@pytest.fixture
async def site(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Site]:
    """A platform of this test alone; its services start with `site.running()`."""
    async with new_site(fresh_database, tmp_path) as made:
        yield made
