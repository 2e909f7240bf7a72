"""The store's tests run on native partitions, and on TimescaleDB where a server has it."""

import os
from collections.abc import Iterator

import pytest

from tests.conftest import server_of_this_run
from tests.postgres import Server, running_server

TIMESCALE_URL = os.environ.get("TG_TEST_TIMESCALE_URL")
ENGINES = ["native", *(["timescale"] if TIMESCALE_URL else [])]


@pytest.fixture(scope="session")
def native_server(request: pytest.FixtureRequest) -> Server:
    """The server of this run."""
    return server_of_this_run(request.config)


@pytest.fixture(scope="session")
def timescale_server() -> Iterator[Server]:
    """A server with TimescaleDB, which was given."""
    assert TIMESCALE_URL is not None
    with running_server(TIMESCALE_URL) as server:
        yield server


@pytest.fixture(scope="session", params=ENGINES)
def postgres(request: pytest.FixtureRequest) -> Server:
    """A server whose databases keep heartbeats by the engine of the parameter."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server
