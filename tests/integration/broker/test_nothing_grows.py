"""What a peer sends or withholds costs the front a bounded amount."""

import asyncio
import socket
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from tests.integration.broker.certificates import Platform
from tests.integration.broker.conftest import OpenSite, Site
from tests.integration.broker.wire import connect_packet, field, packet
from tests.patience import PATIENCE_S

KIB = 1024


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_packet_of_64_kib_passes_and_a_larger_one_ends_the_connection(
    site: Site, platform: Platform
) -> None:
    agent, hub = platform.agent(), await site.hub()
    wire = await site.agent(agent)
    await wire.publish(agent.up("event"), b"x" * 64 * KIB)
    assert len((await hub.hear()).payload) == 64 * KIB
    assert await wire.hear() is not None
    await wire.publish(agent.up("event"), b"x" * 66 * KIB)
    assert await wire.hear() is None
    assert (await hub.report("denied")).operation == "oversize"


async def test_a_claimed_length_is_refused_before_it_is_read(
    site: Site, platform: Platform
) -> None:
    wire = await site.agent(platform.agent())
    await wire.say(b"\x32\xff\xff\xff\x7f")
    assert await wire.hear() is None


async def test_a_large_connect_is_refused_before_it_is_read(site: Site, platform: Platform) -> None:
    wire = await site.open(platform.agent())
    await wire.say(b"\x10\xff\xff\x03")
    assert await wire.hear() is None
    assert site.counted("tensorguard_broker_handshakes_failed_total", reason="oversize-packet") == 1


async def test_a_subscribe_with_thousands_of_filters_ends_the_connection(
    site: Site, platform: Platform
) -> None:
    wire = await site.agent(platform.agent())
    await wire.say(
        packet(0x82, b"\x00\x01" + b"".join(field(f"t/{n}") + b"\0" for n in range(2000)))
    )
    assert await wire.hear() is None


async def test_subscribing_again_and_again_keeps_one_subscription(
    site: Site, platform: Platform
) -> None:
    agent, hub = platform.agent(), await site.hub()
    wire = await site.agent(agent)
    for _ in range(100):
        assert await wire.subscribe(agent.down("#")) == [0]
    await hub.wire.publish(agent.down("ack"), b"once", qos=0)
    heard = await wire.hear()
    assert heard is not None
    assert heard.payload == b"once"
    assert await wire.ping(), "the message came twice"


async def test_unsubscribing_ends_delivery_and_leaves_nothing_behind(
    site: Site, platform: Platform
) -> None:
    agent, hub = platform.agent(), await site.hub()
    wire = await site.agent(agent)
    own, everybody = agent.down("#"), f"tg/v1/{agent.fleet}/all/down/#"
    await wire.say(packet(0xA2, b"\x00\x07" + field(own) + field(everybody)))
    heard = await wire.hear()
    assert heard is not None
    assert (heard.kind, heard.packet_id) == (11, 7)
    await hub.wire.publish(agent.down("ack"))
    assert await hub.wire.ping() or True
    assert await wire.ping()
    assert site.front.router.list_topics() == []


async def test_who_says_nothing_after_the_handshake_is_dropped(
    open_site: OpenSite, platform: Platform
) -> None:
    async with open_site(connect_timeout=timedelta(milliseconds=200)) as site:
        wire = await site.open(platform.agent())
        assert await wire.hear() is None
        assert site.counted("tensorguard_broker_handshakes_failed_total", reason="no-connect") == 1


async def test_a_connect_that_trickles_in_is_dropped_at_the_same_deadline(
    open_site: OpenSite, platform: Platform
) -> None:
    agent = platform.agent()
    async with open_site(connect_timeout=timedelta(milliseconds=300)) as site:
        wire = await site.open(agent)
        await wire.say(connect_packet(agent.client_id)[:-1])
        assert await wire.hear() is None


async def test_half_open_handshakes_are_dropped_at_their_deadline(
    open_site: OpenSite, platform: Platform
) -> None:
    async with open_site(handshake_timeout=timedelta(milliseconds=300)) as site:
        (await site.agent(platform.agent())).abort()
        await site.until(lambda: not site.front.registry.agents, "the first has gone")
        before = open_files()
        silent = [socket.create_connection(site.address) for _ in range(20)]
        await site.until(lambda: open_files() >= before + 40, "the front accepted them")
        await site.until(lambda: open_files() <= before + 20, "the front dropped its ends")
        for client in silent:
            client.close()


async def test_many_half_open_handshakes_cost_little_memory(
    open_site: OpenSite, platform: Platform
) -> None:
    async with open_site(evict_after=timedelta(milliseconds=50)) as site:
        await site.agent(platform.agent())
        process = psutil.Process()
        before_bytes = process.memory_info().rss
        # A record that announces 16 KiB and does not come to its end.
        hello = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + bytes(4000)
        silent = []
        for _ in range(1000):
            client = socket.create_connection(site.address)
            client.sendall(hello)
            silent.append(client)
            await asyncio.sleep(0)
        await site.agent(platform.agent())
        assert site.counted("tensorguard_broker_pending_connections") <= 128
        grown_bytes = process.memory_info().rss - before_bytes
        for client in silent:
            client.close()
        assert grown_bytes < 30 * KIB * KIB


async def test_half_open_handshakes_do_not_keep_an_agent_out(
    open_site: OpenSite, platform: Platform
) -> None:
    limits = {"pending": 10, "evict_after": timedelta(milliseconds=200)}
    async with open_site(**limits) as site:
        silent = [socket.create_connection(site.address) for _ in range(30)]
        wire = await site.agent(platform.agent())
        assert await wire.ping()
        assert site.counted("tensorguard_broker_pending_connections") <= 10
        for client in silent:
            client.close()


async def test_a_crowd_that_comes_at_once_gets_in(open_site: OpenSite, platform: Platform) -> None:
    agents = [platform.agent() for _ in range(100)]
    async with open_site(pending=10, evict_after=timedelta(seconds=2)) as site:
        await asyncio.gather(*(site.agent(agent) for agent in agents))
        assert site.front.registry.agents == 100


async def test_refused_peers_leave_no_descriptor_behind(site: Site, platform: Platform) -> None:
    agent = platform.agent()
    expired = platform.agent(issued=timedelta(days=-2), lifetime=timedelta(days=1))
    before = 0
    for turn in range(20):
        if turn == 1:
            before = open_files()
        wire = await site.open(agent)
        assert await wire.connect("somebody-else") == 2
        assert await wire.hear() is None
        wire.abort()
        wire = await site.open(expired)
        await wire.hear()
        wire.abort()
    await site.until(lambda: open_files() <= before + 2, "all descriptors were closed")


async def test_an_agent_that_floods_is_slowed_down_and_loses_nothing(
    open_site: OpenSite, platform: Platform
) -> None:
    agent = platform.agent()
    async with open_site(message_burst=10, messages_per_s=50.0) as site:
        hub, wire = await site.hub(), await site.agent(agent)
        started = asyncio.get_running_loop().time()
        for number in range(30):
            await wire.publish(agent.up("event"), str(number).encode(), qos=0)
        heard = [(await hub.hear()).payload for _ in range(30)]
        assert heard == [str(number).encode() for number in range(30)]
        assert asyncio.get_running_loop().time() - started > 0.35
        assert await wire.ping()


async def test_a_full_hub_queue_stops_reading_from_agents_and_loses_nothing(
    open_site: OpenSite, platform: Platform
) -> None:
    agent, other = platform.agent(), platform.agent()
    limits = {"hub_queue_messages": 20, "hub_in_flight": 10, "keep_alive": timedelta(seconds=1)}
    async with open_site(**limits) as site:
        hub = await site.hub()
        wire, second = await site.agent(agent), await site.agent(other)
        await hub.report("connected")
        await hub.report("connected")
        for number in range(50):
            await wire.publish(agent.up("event"), b"%d" % number)
            await second.publish(other.up("event"), b"%d" % number)
        await site.until(
            lambda: site.counted("tensorguard_broker_hub_queue_messages") == 20, "the queue is full"
        )
        assert site.counted("tensorguard_broker_hub_in_flight_messages") == 10
        # Ten in flight, twenty queued, one in the pump's hand, one of each agent waiting for room.
        taken = site.counted("tensorguard_broker_messages_total", direction="in", side="agent")
        assert taken <= 33
        # Held by the front, an agent is not silent: its keep-alive does not run out.
        for _ in range(6):
            await asyncio.sleep(0.3)
            assert site.front.registry.agents == 2
            await hub.wire.say(packet(0xC0))
        heard = [await hub.hear() for _ in range(100)]
        for topic in (agent.up("event"), other.up("event")):
            numbers = [int(it.payload) for it in heard if it.topic == topic]
            assert numbers == list(range(50))
        assert site.counted("tensorguard_broker_dropped_total", reason="hub-full") == 0


async def test_a_hub_that_never_acks_costs_messages_and_no_connection(
    open_site: OpenSite, platform: Platform
) -> None:
    agent = platform.agent()
    limits = {"hub_queue_messages": 5, "hub_in_flight": 5}
    async with open_site(hub_stall=timedelta(milliseconds=200), **limits) as site:
        await site.hub()
        wire = await site.agent(agent)
        for number in range(50):
            await wire.publish(agent.up("event"), str(number).encode())
        for _ in range(50):
            answer = await wire.hear()
            assert answer is not None
            assert answer.kind == 4
        assert site.counted("tensorguard_broker_dropped_total", reason="hub-full") >= 35
        assert await wire.ping()


async def test_without_a_hub_messages_are_acked_and_counted_as_dropped(
    site: Site, platform: Platform
) -> None:
    agent = platform.agent()
    wire = await site.agent(agent)
    await wire.publish(agent.up("heartbeat"))
    answer = await wire.hear()
    assert answer is not None
    assert answer.kind == 4
    # One report of the connection, one heartbeat.
    assert site.counted("tensorguard_broker_dropped_total", reason="no-hub") == 2


async def test_messages_that_a_hub_took_along_are_counted(
    open_site: OpenSite, platform: Platform
) -> None:
    agent = platform.agent()
    async with open_site() as site:
        hub, wire = await site.hub(), await site.agent(agent)
        await hub.report("connected")
        for _ in range(7):
            await wire.publish(agent.up("event"))
            await wire.hear()
        hub.wire.abort()
        await site.until(lambda: not site.front.router.has_hub, "the hub is gone")
        assert site.counted("tensorguard_broker_dropped_total", reason="hub-gone") == 7


async def test_an_agent_that_does_not_read_is_closed_and_the_hub_is_not_held_up(
    open_site: OpenSite, platform: Platform
) -> None:
    slow, other = platform.agent(), platform.agent()
    async with open_site(unsent_bytes=64 * KIB) as site:
        hub, witness = await site.hub(), await site.agent(other)
        wire = await site.agent(slow)
        wire.writer.transport.pause_reading()
        gone = asyncio.Event()
        async with asyncio.timeout(PATIENCE_S):
            while site.front.registry.has_client(slow.client_id):
                await hub.wire.publish(slow.down("command"), b"x" * 60 * KIB, qos=0)
        gone.set()
        assert (await hub.report("disconnected")).reason == "did not read"
        await hub.wire.publish(other.down("ack"), b"through", qos=0)
        heard = await witness.hear()
        assert heard is not None
        assert heard.payload == b"through"


async def test_each_agent_has_one_hub_and_every_hub_has_agents(
    site: Site, platform: Platform
) -> None:
    hubs = [await site.hub("hub-a"), await site.hub("hub-b")]
    agents = [platform.agent() for _ in range(20)]
    for agent in agents:
        wire = await site.agent(agent)
        for number in range(3):
            await wire.publish(agent.up("event"), b"%d" % number)
            await wire.hear()
    heard: dict[str, list[bytes]] = {}
    shares = []
    for hub in hubs:
        share = 0
        while True:
            await hub.wire.say(packet(0xC0))
            answer = await hub.wire.hear()
            while answer is not None and answer.kind == 3:
                if "/_front/" not in answer.topic:
                    heard.setdefault(answer.topic, []).append(answer.payload)
                    share += 1
                answer = await hub.wire.hear()
            break
        shares.append(share)
    assert heard == {agent.up("event"): [b"0", b"1", b"2"] for agent in agents}
    assert all(shares)


async def test_a_taken_port_is_named(open_site: OpenSite, site: Site) -> None:
    _, port = site.address
    with pytest.raises(Exception, match=f"cannot listen on 127.0.0.1:{port}") as refused:
        async with open_site(port=port):
            pass
    assert refused.value.code == "listen-failed"  # type: ignore[attr-defined] # an error of ours
