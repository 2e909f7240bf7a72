"""A front whose node stops, hangs, or is started again."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.denyset import Revocation
from broker.nats.errors import NodeUnreachable
from broker.nats.keys import CalloutKeys
from tests.integration.broker.certificates import Platform
from tests.integration.nats.server import running_server
from tests.integration.nats.site import NatsSite, Node, nats_site


@pytest.fixture
async def own_node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node that the test may stop."""
    platform, keys = Platform(tmp_path), CalloutKeys.generate()
    async with running_server(tmp_path, platform.authority, keys) as server:
        yield Node(platform, server, keys)
        server.process.send_signal(signal.SIGCONT)


@pytest.fixture
async def own_site(own_node: Node) -> AsyncIterator[NatsSite]:
    async with nats_site(own_node) as running:
        yield running


async def test_a_front_confirms_nothing_while_its_node_does_not_answer(own_site: NatsSite) -> None:
    agent, process = own_site.platform.agent(), own_site.node.server.process
    wire = await own_site.agent(agent)
    await own_site.present(1)
    await asyncio.to_thread(stop, process.pid)
    revocations = [Revocation(1, agent.agent_id, None)]
    with pytest.raises(NodeUnreachable):
        await own_site.front.apply(revocations)
    process.send_signal(signal.SIGCONT)
    ended = await applied(own_site, revocations)
    assert await wire.hear() is None
    # The server may have done what was asked of it while it stood still.
    assert ended in ([0], [1])


def stop(pid: int) -> None:
    """Stop a process of ours; the signal alone lets its other threads go on until one takes it."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


async def applied(site: NatsSite, revocations: list[Revocation]) -> list[int]:
    """Apply as a lease does: again, until it can be done."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await site.front.apply(revocations)
            except NodeUnreachable:
                await asyncio.sleep(0.05)


async def test_a_session_that_the_front_was_not_told_of_is_found_and_told_when_it_is_back(
    own_node: Node,
) -> None:
    agent = own_node.platform.agent()
    async with nats_site(own_node) as first:
        async with nats_site(own_node) as second:
            hub = await second.hub()
            wire = await first.agent(agent)
            assert (await hub.report("connected")).agent_id == agent.agent_id
        async with nats_site(own_node) as third:
            assert third.agents == 1
            hub = await third.hub()
            assert (await hub.report("connected")).agent_id == agent.agent_id
            assert await wire.ping()
            wire.abort()
            assert (await hub.report("disconnected")).agent_id == agent.agent_id
