"""Which manufacturer CAs the front believes, as the database says it at each moment."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from uuid6 import uuid7

from broker.manufacturers import Manufacturers
from tests.integration.broker.certificates import Platform
from tests.manufacturer import Manufacturer
from tests.patience import PATIENCE_S
from tests.postgres import Database

_INSERT = """
    INSERT INTO manufacturer_cas (id, fleet, name, certificate, spki_sha256, approval, tags,
        max_agents, state, challenge, challenge_expires_at, not_after, created_at, created_by)
    VALUES (%(id)s, 'f', 'm', %(pem)s, sha256(%(pem)s::text::bytea), 'auto', '{}', 1, %(state)s,
        'c', now(), %(not_after)s, now(), 'test')
"""


class Following:
    """Manufacturers that follow a database, and each change that they noticed."""

    def __init__(self, database: Database, platform: Platform) -> None:
        self.changed = asyncio.Event()
        self.database = database
        self.manufacturers = Manufacturers(
            database.app_url,
            platform.server_certificate,
            lambda: [platform.authority.certificate],
            lambda: datetime.now(UTC),
        )

    async def believed(self, count: int) -> None:
        """Wait until so many CAs are believed."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.manufacturers.cas) != count:
                self.changed.clear()
                await self.changed.wait()

    async def write(self, statement: str, **values: Any) -> None:
        async with await psycopg.AsyncConnection.connect(
            self.database.superuser_url, autocommit=True
        ) as connection:
            await connection.execute(statement, values)

    async def add(
        self, maker: Manufacturer, state: str = "active", *, lasts: timedelta = timedelta(days=1)
    ) -> None:
        not_after = datetime.now(UTC) + lasts
        await self.write(_INSERT, id=uuid7(), pem=maker.pem, state=state, not_after=not_after)


@pytest.fixture
async def following(fresh_database: Database, platform: Platform) -> AsyncIterator[Following]:
    found = Following(fresh_database, platform)
    await found.write(
        "INSERT INTO fleets (slug, name, created_at, created_by) VALUES ('f', 'F', now(), 't')"
    )
    assert found.manufacturers.denied.is_stale()  # nothing read, nobody let in
    await found.manufacturers.load()
    assert not found.manufacturers.denied.is_stale()
    stop = asyncio.Event()
    task = asyncio.create_task(found.manufacturers.run(stop, found.changed.set))
    yield found
    stop.set()
    await asyncio.wait_for(task, PATIENCE_S)


async def test_active_ones_are_believed_as_soon_as_they_are_and_as_long(
    following: Following, tmp_path: Path
) -> None:
    first, second = Manufacturer(tmp_path / "1"), Manufacturer(tmp_path / "2")
    empty = following.manufacturers.context
    await following.add(first)
    await following.believed(1)
    assert following.manufacturers.context is not empty
    await following.add(second, "unproven")
    await following.write("UPDATE manufacturer_cas SET state = 'active'")
    await following.believed(2)
    await following.write("UPDATE manufacturer_cas SET state = 'revoked'")
    await following.believed(0)


async def test_expired_ones_are_believed_no_more(following: Following, tmp_path: Path) -> None:
    await following.add(Manufacturer(tmp_path / "1"), lasts=timedelta(seconds=2))
    await following.believed(1)
    await following.believed(0)


async def test_a_lost_connection_is_made_anew(following: Following, tmp_path: Path) -> None:
    await following.write(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'tensorguard-listen' AND datname = current_database()"
    )
    await following.add(Manufacturer(tmp_path / "1"))
    await following.believed(1)
