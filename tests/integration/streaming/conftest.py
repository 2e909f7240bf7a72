"""A hub's database beside a NATS server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.hub.builders import Hub
from tests.integration.hub.conftest import hub
from tests.integration.streaming.hubs import Site, running_site

__all__ = ["hub"]


@pytest.fixture
async def site(tmp_path: Path, hub: Hub) -> AsyncIterator[Site]:
    async with running_site(tmp_path, hub) as running:
        yield running
