"""A hub's database beside a NATS server, under the same CA."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.integration.broker.certificates import TRUST_DOMAIN
from tests.integration.hub.builders import Clock
from tests.integration.hub.conftest import new_hub
from tests.integration.streaming.hubs import Site, running_site
from tests.postgres import Database


@pytest.fixture
async def site(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Site]:
    clock = Clock()
    clock.now = datetime.now(UTC)  # the server's clock, which says when a heartbeat came
    async with (
        new_hub(fresh_database, tmp_path, TRUST_DOMAIN, clock) as hub,
        running_site(tmp_path, hub) as running,
    ):
        yield running
