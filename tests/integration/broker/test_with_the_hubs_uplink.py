"""The front and the hub's own uplink: each takes what the other sends, reconnected too."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from hub.downlink import Downlink
from hub.mqtt_uplink import MqttUplink
from hub.uplink import Uplink
from tests.integration.broker.certificates import Platform
from tests.integration.broker.conftest import OpenSite, Site
from tests.patience import PATIENCE_S


@pytest.fixture
async def uplink(site: Site, platform: Platform) -> AsyncIterator[MqttUplink]:
    async with connected(site, platform) as opened:
        await asyncio.wait_for(opened.connected.wait(), PATIENCE_S)
        yield opened


def connected(site: Site, platform: Platform) -> MqttUplink:
    return MqttUplink(
        host="127.0.0.1",
        port=site.address[1],
        client_id="hub-1",
        tls=platform.hub.client_context(platform.ca_path),
        clock=lambda: datetime.now(UTC),
        intake_limit=1000,
        downlink_limit=1000,
    )


async def take(uplink: MqttUplink, number: int) -> list[Uplink]:
    """The next messages of agents, unacked."""
    taken: list[Uplink] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(taken) < number:
            heard = await uplink.receive(100, 0.02)
            uplink.ack([it for it in heard if "/_front/" in it.topic])
            taken += [it for it in heard if "/_front/" not in it.topic]
    return taken


async def test_messages_go_up_in_order_and_answers_down(
    site: Site, platform: Platform, uplink: MqttUplink
) -> None:
    agent = platform.agent()
    wire = await site.agent(agent)
    for number in range(300):
        await wire.publish(agent.up("event"), b"%d" % number)
    taken = await take(uplink, 300)
    assert [it.payload for it in taken] == [b"%d" % number for number in range(300)]
    assert site.counted("tensorguard_broker_hub_in_flight_messages") == 300
    uplink.ack(taken)
    in_flight = "tensorguard_broker_hub_in_flight_messages"
    await site.until(lambda: site.counted(in_flight) == 0, "the acks arrived")
    for _ in range(300):
        await wire.hear()
    assert uplink.publish([Downlink(agent.down("ack"), b"through")]) == 0
    heard = await wire.hear()
    assert heard is not None
    assert heard.payload == b"through"


async def test_the_hub_comes_back_after_the_front_was_restarted(
    open_site: OpenSite, platform: Platform
) -> None:
    async with open_site() as first:
        port = first.address[1]
        uplink = connected(first, platform)
        await uplink.__aenter__()
        await asyncio.wait_for(uplink.connected.wait(), PATIENCE_S)
    try:
        async with open_site(port=port) as second:
            await second.until(lambda: second.front.router.has_hub, "the hub is back")
            agent = platform.agent()
            await (await second.agent(agent)).publish(agent.up("event"), b"again")
            assert [it.payload for it in await take(uplink, 1)] == [b"again"]
    finally:
        await uplink.__aexit__(None, None, None)
