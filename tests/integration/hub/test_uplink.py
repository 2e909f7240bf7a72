"""The hub's MQTT connection, to a broker that nobody here wrote."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hub.downlink import Downlink
from hub.mqtt_uplink import MqttUplink
from hub.uplink import Uplink
from tests.integration.hub.broker import Mosquitto, find_mosquitto
from tests.integration.hub.builders import Clock
from tests.patience import PATIENCE_S

MOSQUITTO = find_mosquitto()
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
TOPIC = "tg/v1/hospital-a/0195a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b/up/heartbeat"
MakeBroker = Callable[..., Mosquitto]


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[MakeBroker]:
    brokers: list[Mosquitto] = []

    def make(*settings: str) -> Mosquitto:
        assert MOSQUITTO is not None
        broker = Mosquitto(tmp_path, MOSQUITTO, *settings)
        brokers.append(broker)
        broker.start()
        return broker

    yield make
    for broker in brokers:
        broker.stop()


@asynccontextmanager
async def connected(broker: Mosquitto, **settings: Any) -> AsyncIterator[MqttUplink]:
    certificate = broker.hub_certificate()
    known: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": broker.port,
        "client_id": "hub-test",
        "tls": certificate.client_context([broker.ca.certificate]),
        "clock": Clock(),
        "intake_limit": 1_000,
        "downlink_limit": 1_000,
    }
    async with MqttUplink(**(known | settings)) as uplink:
        async with asyncio.timeout(PATIENCE_S):
            await uplink.connected.wait()
        yield uplink


async def receive(uplink: MqttUplink, count: int) -> list[Uplink]:
    """Receive exactly so many messages."""
    received: list[Uplink] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(received) < count:
            received += await uplink.receive(count - len(received), 0.5)
    return received


async def stop(broker: Mosquitto, uplink: MqttUplink) -> None:
    """Stop the broker and wait until the hub knows."""
    broker.stop()
    async with asyncio.timeout(PATIENCE_S):
        while uplink.connected.is_set():  # noqa: ASYNC110 - the end of a connection has no event
            await asyncio.sleep(0.01)


async def start_again(broker: Mosquitto, uplink: MqttUplink) -> None:
    """Start the broker and wait until the hub is back."""
    broker.start()
    async with asyncio.timeout(PATIENCE_S):
        await uplink.connected.wait()


def payloads(uplinks: list[Uplink]) -> list[str]:
    return [uplink.payload.decode() for uplink in uplinks]


def numbered(count: int) -> list[str]:
    return [str(number) for number in range(count)]


async def test_messages_arrive_in_order_with_topic_and_the_hubs_time(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker("max_inflight_messages 0")
    clock = Clock()
    async with connected(broker, clock=clock) as uplink:
        await broker.publish(TOPIC, *numbered(200))
        received = await receive(uplink, 200)
    assert payloads(received) == numbered(200)
    assert {(one.topic, one.received_at) for one in received} == {(TOPIC, clock.now)}


async def test_what_was_there_before_the_hub_said_ready_is_not_missed(
    make_broker: MakeBroker,
) -> None:
    """`connected` means subscribed: what is published from then on arrives."""
    broker = make_broker()
    for _ in range(5):
        async with connected(broker) as uplink:
            await broker.publish(TOPIC, "now")
            assert payloads(await receive(uplink, 1)) == ["now"]


async def test_the_broker_gets_an_ack_only_when_the_hub_says_so(make_broker: MakeBroker) -> None:
    broker = make_broker("max_inflight_messages 1")
    async with connected(broker) as uplink:
        await broker.publish(TOPIC, *numbered(3))
        received: list[Uplink] = []
        for _ in range(3):
            received += await receive(uplink, 1)
            assert await uplink.receive(1, 0.3) == []
            uplink.ack(received[-1:])
    assert payloads(received) == numbered(3)


async def test_a_whole_batch_can_be_acked_at_once(make_broker: MakeBroker) -> None:
    broker = make_broker("max_inflight_messages 5")
    async with connected(broker) as uplink:
        await broker.publish(TOPIC, *numbered(23))
        received: list[Uplink] = []
        while len(received) < 23:
            batch = await receive(uplink, min(5, 23 - len(received)))
            uplink.ack(batch)
            received += batch
    assert payloads(received) == numbered(23)


async def test_a_batch_is_full_at_once_and_short_after_the_wait(make_broker: MakeBroker) -> None:
    broker = make_broker("max_inflight_messages 0")
    async with connected(broker) as uplink:
        await broker.publish(TOPIC, *numbered(30))
        async with asyncio.timeout(10):
            full = await uplink.receive(20, 60)  # would time out if it waited
        rest = await uplink.receive(20, 1.0)
    assert payloads(full + rest) == numbered(30)


async def test_a_full_intake_stops_reading_and_loses_nothing(make_broker: MakeBroker) -> None:
    broker = make_broker("max_inflight_messages 0")
    in_memory, most = 0, 0
    lock = threading.Lock()
    clock = Clock()

    def counting_clock() -> Any:
        """Called once for every message that enters the hub's memory."""
        nonlocal in_memory, most
        with lock:
            in_memory += 1
            most = max(most, in_memory)
        return clock.now

    async with connected(broker, clock=counting_clock, intake_limit=10) as uplink:
        await broker.publish(TOPIC, *numbered(500))
        received: list[Uplink] = []
        while len(received) < 500:
            batch = await receive(uplink, min(7, 500 - len(received)))
            received += batch
            with lock:
                in_memory -= len(batch)
            uplink.ack(batch)
    assert payloads(received) == numbered(500)
    assert most <= 10


async def test_a_hub_that_ends_while_its_intake_is_full_ends_soon(make_broker: MakeBroker) -> None:
    broker = make_broker("max_inflight_messages 0")
    async with asyncio.timeout(20):
        async with connected(broker, intake_limit=3) as uplink:
            await broker.publish(TOPIC, *numbered(50))
            assert len(await uplink.receive(3, 2)) == 3  # never acked: no room for a fourth


@pytest.mark.parametrize("acked", ["while it is down", "when it is back"])
async def test_the_hub_comes_back_and_acks_nothing_of_the_old_connection(
    make_broker: MakeBroker, acked: str
) -> None:
    """With one message in flight, an ack of another's id would let the next one through."""
    broker = make_broker("max_inflight_messages 1")
    async with connected(broker) as uplink:
        await broker.publish(TOPIC, "before")
        [before] = await receive(uplink, 1)
        await stop(broker, uplink)
        if acked == "while it is down":
            uplink.ack([before])
        await start_again(broker, uplink)
        await broker.publish(TOPIC, "after", "later")
        [after] = await receive(uplink, 1)
        assert after.receipt[1] == before.receipt[1]  # the same packet id means another message
        if acked == "when it is back":
            uplink.ack([before])
        assert await uplink.receive(1, 0.7) == []
        uplink.ack([after])
        [later] = await receive(uplink, 1)
    assert payloads([before, after, later]) == ["before", "after", "later"]


async def test_room_comes_back_for_messages_of_a_connection_that_ended(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker("max_inflight_messages 0")
    async with connected(broker, intake_limit=5) as uplink:
        await broker.publish(TOPIC, *numbered(5))
        old = await receive(uplink, 5)
        await stop(broker, uplink)
        await start_again(broker, uplink)
        uplink.ack(old)
        await broker.publish(TOPIC, *numbered(5))
        assert payloads(await receive(uplink, 5)) == numbered(5)


async def test_downlinks_beyond_the_limit_are_dropped_and_counted(make_broker: MakeBroker) -> None:
    broker = make_broker()
    async with connected(broker, downlink_limit=50) as uplink:
        await stop(broker, uplink)
        many = [Downlink("tg/v1/hospital-a/all/down/config", b"x")] * 80
        assert uplink.publish(many) == 30


async def test_what_the_hub_publishes_reaches_a_subscriber(make_broker: MakeBroker) -> None:
    broker = make_broker()
    async with connected(broker) as first, connected(broker, client_id="other") as second:
        # Both subscribe what agents say; a hub that publishes there stands for any client.
        assert first.publish([Downlink(TOPIC, b"hello")]) == 0
        assert payloads(await receive(second, 1)) == ["hello"]
