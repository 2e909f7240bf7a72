"""A ledger of one test alone: its rows can never be deleted."""

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from hub.sequencer import Sequencer
from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tests.integration.ledger.builders import SIGNER, TRUST_DOMAIN, MakeSequencer, now
from tests.postgres import Database


@pytest.fixture
async def sessions(fresh_database: Database) -> AsyncIterator[SessionMaker]:
    """Sessions of the services' role."""
    engine = create_engine(fresh_database.app_url, service="test", pool_size=12)
    yield session_maker(engine)
    await engine.dispose()


@pytest.fixture
def make_sequencer(sessions: SessionMaker) -> MakeSequencer:
    """Sequencers on the test's database."""

    def make(**settings: Any) -> Sequencer:
        known: dict[str, Any] = {
            "trust_domain": TRUST_DOMAIN,
            "signers": lambda: [SIGNER],
            "clock": now,
            "random": Random(1),
        }
        return Sequencer(sessions, **(known | settings))

    return make
