"""What the server does with clients that ask for more than the platform offers."""

import asyncio

import pytest

from broker.nats.configuration import RETAINED, SESSIONS
from tests.integration.broker.wire import connect_packet, field, packet
from tests.integration.nats.site import NatsSite

KIB = 1024


async def test_a_persistent_session_leaves_one_record_that_goes_by_itself(site: NatsSite) -> None:
    agent = site.platform.agent()
    for _ in range(3):
        wire = await site.open(agent)
        assert await wire.connect(agent.client_id, clean=False) == 0
        assert await wire.subscribe(agent.down("#"), qos=1) == [1]
        wire.abort()
        await site.present(0)
    kept = await site.stored(SESSIONS)
    assert kept["state"]["messages"] <= 1
    assert kept["config"]["max_age"] == 3600 * 10**9
    # With a clean session nothing of it is left.
    wire = await site.agent(agent)
    await wire.say(packet(0xE0))
    await site.present(0)
    async with asyncio.timeout(20):
        while (await site.stored(SESSIONS))["state"]["messages"]:  # noqa: ASYNC110  a stream
            await asyncio.sleep(0.05)


async def test_retained_messages_are_kept_for_nobody(site: NatsSite) -> None:
    agent, hub = site.platform.agent(), await site.hub()
    wire = await site.agent(agent)
    for number in range(50):
        await wire.publish(agent.up("heartbeat"), b"%d" % number, retain=True)
        await wire.hear()
    assert (await hub.report("denied")).operation == "retain"
    assert (await site.stored(RETAINED))["state"]["messages"] == 0
    # A will that asks to be kept is passed on and not kept either.
    wire = await site.agent(agent, will=(agent.up("will"), b"{}"), will_flags=0x20)
    wire.abort()
    while (await hub.hear()).topic != agent.up("will"):
        pass
    assert (await site.stored(RETAINED))["state"]["messages"] == 0


async def test_qos_2_is_not_offered(site: NatsSite) -> None:
    agent = site.platform.agent()
    wire = await site.agent(agent)
    assert await wire.subscribe(agent.down("#"), qos=2) == [1]
    await wire.publish(agent.up("heartbeat"), qos=2)
    assert await wire.hear() is None


async def test_a_will_of_qos_2_is_refused(site: NatsSite) -> None:
    agent = site.platform.agent()
    wire = await site.open(agent)
    assert await wire.connect(agent.client_id, will=(agent.up("will"), b""), will_flags=0x10) != 0


async def test_without_a_keep_alive_there_is_still_one_session_an_agent(site: NatsSite) -> None:
    agent = site.platform.agent()
    older = await site.agent(agent, keep_alive_s=0)
    newer = await site.agent(agent, keep_alive_s=0)
    assert await older.hear() is None
    assert await newer.ping()
    await site.present(1)


async def test_who_says_nothing_is_hung_up_on(site: NatsSite) -> None:
    wire = await site.open(site.platform.agent())
    assert await wire.hear(timeout_s=30) is None


@pytest.mark.parametrize("size_bytes", [128 * KIB, 16 * KIB * KIB])
async def test_a_connect_that_is_too_large_ends_the_connection(
    site: NatsSite, size_bytes: int
) -> None:
    agent = site.platform.agent()
    wire = await site.open(agent)
    head = connect_packet(agent.client_id)[2:]
    await say_at_most(wire.writer, packet(0x10, head + bytes(size_bytes)))
    answer = await wire.hear()
    assert answer is None or answer.body[1] != 0


async def test_a_publish_that_is_too_large_ends_the_session(site: NatsSite) -> None:
    agent, hub = site.platform.agent(), await site.hub()
    wire = await site.agent(agent)
    body = field(agent.up("event")) + (1).to_bytes(2, "big") + bytes(128 * KIB)
    await say_at_most(wire.writer, packet(0x32, body))
    assert await wire.hear() is None
    assert (await hub.report("disconnected")).reason == "oversize packet"


async def say_at_most(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write until the peer hangs up."""
    try:
        writer.write(data)
        await writer.drain()
    except OSError:
        return
