"""A ledger of one test alone, with fleets: its rows can never be deleted."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa

from hub.sequencer import Sequencer
from tensorguard.services.compliance.report import Summary, summarise
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Event
from tensorguard.store import tables
from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tensorguard.store.ids import new_id
from tests.integration.ledger.builders import SIGNER, TRUST_DOMAIN, now
from tests.postgres import Database

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
UNTIL = datetime(2026, 4, 1, tzinfo=UTC)


class Quarter:
    """The first quarter of 2026 on a database of its own."""

    def __init__(self, database: Database, sessions: SessionMaker) -> None:
        self.database = database
        self.sessions = sessions
        self._sequencer = Sequencer(
            sessions,
            trust_domain=TRUST_DOMAIN,
            signers=lambda: [SIGNER],
            clock=now,
            random=Random(1),
            checkpoint_every=timedelta(0),
        )

    async def fleet(self, slug: str) -> str:
        columns = {"name": slug, "created_at": now(), "created_by": "test"}
        async with self.sessions.begin() as session:
            await session.execute(sa.insert(tables.fleets).values(slug=slug, **columns))
        return slug

    async def record(self, *events: Event, at: datetime = SINCE) -> None:
        """Write events as if they had come at that time."""
        async with self.sessions.begin() as session:
            await ledger.record_many(session, events, now=at)

    async def sign(self) -> None:
        """Sequence all that waits, under a checkpoint."""
        while await self._sequencer.step():
            pass

    def deployment(self, *fleets: str) -> UUID:
        """A deployment's row alone."""
        made = new_id()
        self.as_superuser(
            "INSERT INTO deployments (id, release_id, fleets, selector, strategy, state, salt,"
            " created_at, created_by) VALUES (%s, %s, %s, '', '{}', 'running', %s, now(), 'test')",
            (made, new_id(), list(fleets), bytes(16)),
        )
        return made

    def as_superuser(self, statement: str, parameters: tuple[Any, ...] = ()) -> None:
        """What nothing forbids: neither a foreign key nor the ledger's triggers."""
        with psycopg.connect(self.database.superuser_url) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute("ALTER TABLE ledger_events DISABLE TRIGGER ALL")
            connection.execute(statement, parameters)  # type: ignore[arg-type]  # of the tests

    async def summary(self, fleet: str | None = None) -> Summary:
        async with self.sessions() as session:
            return await summarise(session, fleet=fleet, since=SINCE, until=UNTIL, now=now())

    async def numbers(self, fleet: str | None = None) -> dict[str, int]:
        """The numbers that are not zero."""
        found = (await self.summary(fleet)).numbers
        names = found.__struct_fields__
        return {name: getattr(found, name) for name in names if getattr(found, name)}


@pytest.fixture
async def quarter(fresh_database: Database) -> AsyncIterator[Quarter]:
    engine = create_engine(fresh_database.app_url, service="test", pool_size=4)
    yield Quarter(fresh_database, session_maker(engine))
    await engine.dispose()
