"""One identity, one session: take-over, kick, last will, silence and expiry."""

import asyncio
import contextlib

import paho.mqtt.client as paho
import pytest

from broker.denyset import DenySet, Revocation
from broker.embedded.limits import Limits
from broker.session import End
from tensorguard.pki.identity import serial_text
from tests.integration.broker.certificates import Platform
from tests.integration.broker.conftest import Hub
from tests.integration.broker.wire import packet
from tests.integration.conformance.conftest import AnySite, OpenSite
from tests.patience import PATIENCE_S


async def test_the_newer_connection_takes_over_and_the_older_is_closed_without_its_will(
    site: AnySite, platform: Platform
) -> None:
    agent, hub = platform.agent(), await site.hub()
    older = await site.agent(agent, will=(agent.up("will"), b"{}"))
    newer = await site.agent(agent)
    assert await older.hear() is None
    assert await hub.quiet(agent, newer) == []
    assert site.agents == 1
    assert site.counted("tensorguard_broker_disconnects_total", reason="taken_over") == 1


async def test_after_a_take_over_the_older_connection_says_nothing_more(
    site: AnySite, platform: Platform
) -> None:
    agent, hub = platform.agent(), await site.hub()
    older = await site.agent(agent)
    newer = await site.agent(agent)
    with contextlib.suppress(OSError):
        for _ in range(100):
            await older.publish(agent.up("event"), b"from the grave", qos=0)
    assert await older.hear() is None
    assert await hub.quiet(agent, newer) == []


async def test_a_take_over_is_two_arrivals_and_no_departure(
    site: AnySite, platform: Platform
) -> None:
    agent, hub = platform.agent(), await site.hub()
    await site.agent(agent)
    newer = await site.agent(agent)
    serial = serial_text(agent.certificate.serial_number)
    assert [(await hub.report("connected")).serial for _ in range(2)] == [serial, serial]
    await newer.say(packet(0xE0))
    left = await hub.report("disconnected")
    assert (left.agent_id, left.reason) == (agent.agent_id, End.DISCONNECT)
    assert site.counted("tensorguard_broker_messages_total", direction="in", side="agent") == 0


async def test_a_down_message_reaches_the_newer_connection_only(
    site: AnySite, platform: Platform
) -> None:
    agent, hub = platform.agent(), await site.hub()
    await site.agent(agent)
    newer = await site.agent(agent)
    await hub.publish(agent.down("ack"), b"now")
    heard = await newer.hear()
    assert heard is not None
    assert heard.payload == b"now"
    if site.engine == "embedded":  # NATS does not count what it delivers
        name = "tensorguard_broker_messages_total"
        assert site.counted(name, direction="out", side="agent") == 1


async def test_superseding_a_certificate_ends_its_session_and_not_the_renewed_one(
    site: AnySite, platform: Platform
) -> None:
    old, bystander = platform.agent(), platform.agent()
    wire, witness = await site.agent(old), await site.agent(bystander)
    serial = serial_text(old.certificate.serial_number)
    assert await site.front.apply([Revocation(1, None, serial)]) == [1]
    assert await wire.hear() is None
    assert await witness.ping()
    await site.agent(platform.agent(agent_id=old.agent_id))


async def test_a_lost_connection_lets_the_will_speak(site: AnySite, platform: Platform) -> None:
    agent, hub = platform.agent(), await site.hub()
    wire = await site.agent(agent, will=(agent.up("will"), b'{"boot_id": 1}'))
    wire.abort()
    heard = await hub.hear()
    assert (heard.topic, heard.payload) == (agent.up("will"), b'{"boot_id": 1}')
    assert (await hub.report("disconnected")).reason == site.said(End.LOST)


async def test_a_disconnect_keeps_the_will_silent(site: AnySite, platform: Platform) -> None:
    agent, bystander = platform.agent(), platform.agent()
    hub, witness = await site.hub(), await site.agent(bystander)
    wire = await site.agent(agent, will=(agent.up("will"), b"{}"))
    await wire.say(packet(0xE0))
    assert await wire.hear() is None
    assert await hub.quiet(bystander, witness) == []


@pytest.mark.parametrize(
    "data",
    [
        packet(0xF0),
        packet(0x00),
        packet(0x30 | 6, b"\x00\x01a\x00\x01"),
        packet(0x32, b"\x00\x01a\x00\x00"),
        packet(0x30, b"\x00\xffa"),
        packet(0x30, b"\x00\x02\xff\xfe"),
        packet(0x80, b"\x00\x01\x00\x01a\x00"),
        packet(0x82, b"\x00\x01"),
        packet(0x82, b"\x00\x01\x00\x09a\x00"),
        packet(0x82, b"\x00\x01\x00\x01a\x03"),
        packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x"),
        packet(0x20, b"\x00\x00"),
        b"\x30\xff\xff\xff\xff\x7f",
    ],
)
async def test_malformed_packets_end_the_connection_and_nothing_else(
    site: AnySite, platform: Platform, data: bytes
) -> None:
    agent, bystander = platform.agent(), platform.agent()
    wire, witness = await site.agent(agent), await site.agent(bystander)
    await wire.say(data)
    assert await wire.hear() is None
    assert await witness.ping()


async def test_silence_beyond_one_and_a_half_keep_alives_ends_the_session(
    site: AnySite, platform: Platform
) -> None:
    agent, hub = platform.agent(), await site.hub()
    wire = await site.agent(agent, keep_alive_s=2, will=(agent.up("will"), b"{}"))
    started = asyncio.get_running_loop().time()
    assert await wire.hear() is None
    assert asyncio.get_running_loop().time() - started > 2.9
    assert (await hub.hear()).topic == agent.up("will")
    assert (await hub.report("disconnected")).reason == site.said(End.IDLE)


async def test_who_was_long_without_the_database_keeps_no_agent_but_its_hubs(
    open_site: OpenSite, platform: Platform
) -> None:
    now = 0.0
    denied = DenySet(monotonic=lambda: now)
    denied.confirm()
    async with open_site(denied=denied) as site:
        hub, wire = await site.hub(), await site.agent(platform.agent())
        now = Limits().unconfirmed.total_seconds() - 1
        await asyncio.sleep(0.1)
        assert await wire.ping(), "for five minutes live sessions stay"
        now += 2
        assert await wire.hear() is None
        assert (await hub.report("disconnected")).reason == End.UNCONFIRMED
        if isinstance(hub, Hub):  # one that is a client of the front
            assert await hub.wire.ping()


async def test_paho_publishes_and_hears_as_an_agent_would(
    site: AnySite, platform: Platform
) -> None:
    agent, hub = platform.agent(), await site.hub()
    loop = asyncio.get_running_loop()
    subscribed: asyncio.Future[list[int]] = loop.create_future()
    heard: asyncio.Future[bytes] = loop.create_future()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=agent.client_id)
    client.tls_set_context(site.context(agent))
    client.on_connect = lambda *_: client.subscribe(agent.down("#"), 0)
    client.on_subscribe = lambda _c, _u, _mid, codes, _p: loop.call_soon_threadsafe(
        subscribed.set_result, [code.value for code in codes]
    )
    client.on_message = lambda _c, _u, message: loop.call_soon_threadsafe(
        heard.set_result, message.payload
    )
    client.connect_async("localhost", site.address[1], keepalive=60)
    client.loop_start()
    try:
        assert await asyncio.wait_for(subscribed, PATIENCE_S) == [0]
        published = client.publish(agent.up("heartbeat"), b"{}", qos=1)
        assert (await hub.hear()).topic == agent.up("heartbeat")
        await asyncio.to_thread(published.wait_for_publish, PATIENCE_S)
        await hub.publish(agent.down("ack"), b"acked")
        assert await asyncio.wait_for(heard, PATIENCE_S) == b"acked"
    finally:
        client.disconnect()
        client.loop_stop()
