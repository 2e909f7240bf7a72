"""A node that a worker's tests share, and sites at it."""

from collections.abc import AsyncIterator, Iterator

import pytest

from broker.nats.keys import CalloutKeys
from tests.integration.broker.certificates import Platform
from tests.integration.hub.conftest import hub
from tests.integration.nats.server import serving_node
from tests.integration.nats.site import NatsSite, Node, nats_site

__all__ = ["hub"]


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    platform, keys = Platform(folder), CalloutKeys.generate()
    with serving_node(folder, platform.authority, keys) as server:
        yield Node(platform, server, keys)


@pytest.fixture
async def site(node: Node) -> AsyncIterator[NatsSite]:
    async with nats_site(node) as running:
        yield running
