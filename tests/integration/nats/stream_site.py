"""A hub's database beside a NATS server, for tests of hubs: imported where it stands for `site`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.hub.builders import Hub
from tests.integration.nats.streaming import Site, running_site


@pytest.fixture(name="site")
async def stream_site(tmp_path: Path, hub: Hub) -> AsyncIterator[Site]:
    async with running_site(tmp_path, hub) as running:
        yield running
