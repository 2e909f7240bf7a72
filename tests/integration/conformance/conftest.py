"""A site of each engine in turn: what is tried here holds whatever carries the messages."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest
import uvloop

from broker.nats.keys import CalloutKeys
from tests.integration.broker.certificates import Platform
from tests.integration.broker.conftest import Site, embedded_site
from tests.integration.nats.server import serving_node
from tests.integration.nats.site import NatsSite, Node, nats_site

AnySite = Site | NatsSite
OpenSite = Callable[..., AbstractAsyncContextManager[AnySite]]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Test on the loop that the broker runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return Platform(tmp_path_factory.mktemp("platform"))


@pytest.fixture(scope="session")
def node(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A NATS server, which all tests of a worker share."""
    keys = CalloutKeys.generate()
    with serving_node(tmp_path_factory.mktemp("node"), platform.authority, keys) as server:
        yield Node(platform, server, keys)


@pytest.fixture(params=["embedded", "nats"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_site(engine: str, platform: Platform, request: pytest.FixtureRequest) -> OpenSite:
    """Start a front with other limits or another deny set."""
    if engine == "embedded":
        return partial(embedded_site, platform)
    return partial(nats_site, request.getfixturevalue("node"))


@pytest.fixture
async def site(open_site: OpenSite) -> AsyncIterator[AnySite]:
    """A running front with the default limits."""
    async with open_site() as running:
        yield running
