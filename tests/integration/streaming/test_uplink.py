"""A hub that reads from a real NATS server into a real database: nothing lost, nothing twice."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from hub.downlink import Downlink
from hub.uplink import LeaseLost, Uplink
from tensorguard.pki.issuer import CertificateAuthority
from tensorguard.protocol import topics
from tensorguard.protocol.subjects import STREAM, partition_of, to_subject
from tensorguard.protocol.topics import DownKind, UpKind
from tests.integration.hub.builders import FLEET
from tests.integration.hub.test_ingest import open_again, refuse, shut
from tests.integration.streaming.hubs import PARTITIONS, Site, event, heartbeat
from tests.patience import PATIENCE_S
from tests.postgres import Database

Condition = Callable[[], Awaitable[bool]]
HISTORY = "SELECT count(*) FROM heartbeats"


async def test_what_agents_publish_is_stored_once_and_acked(site: Site) -> None:
    agents = [await site.hub.add_agent() for _ in range(20)]
    log_id = uuid4()
    hub = await site.start_hub()
    assert hub.source.partitions == list(range(PARTITIONS))
    assert (hub.source.leads, hub.source.share) == (True, 1.0)
    for agent_id in agents:
        await site.publish(agent_id, UpKind.HEARTBEAT, *(heartbeat(seq) for seq in range(10)))
        await site.publish(agent_id, UpKind.EVENT, *(event(log_id, n) for n in range(1, 6)))
    await site.until_stored(100)
    assert await site.hub.value(HISTORY) == 200
    await hub.end()
    async with site.stream() as stream:
        left = [consumer.num_ack_pending for consumer in await stream.consumers_info(STREAM)]
    assert left == [0] * PARTITIONS


async def test_an_agents_messages_keep_their_order_and_have_the_servers_time(site: Site) -> None:
    agents = [await site.hub.add_agent() for _ in range(8)]
    await (await site.start_hub()).end()  # the stream is there, and nobody reads
    began = datetime.now(UTC)
    for seq in range(30):
        for agent_id in agents:
            await site.publish(agent_id, UpKind.HEARTBEAT, heartbeat(seq))
    ended = datetime.now(UTC)
    async with site.source() as source:  # 240 messages, fewer than one partition may hold unacked
        uplinks: list[Uplink] = []
        while len(uplinks) < 30 * len(agents):
            uplinks += await source.receive(50, 0.2)
    for agent_id in agents:
        own = [one for one in uplinks if f"/{agent_id}/" in one.topic]
        assert [json.loads(one.payload)["seq"] for one in own] == list(range(30))
        assert began <= own[0].received_at <= own[-1].received_at <= ended
        assert {one.receipt[0] for one in own} == {partition_of(str(agent_id), PARTITIONS)}
    async with site.source() as source:  # nothing was acked: the same again, with the same times
        again: list[Uplink] = []
        while len(again) < len(uplinks):
            again += await source.receive(50, 0.2)
    assert {(one.topic, one.payload, one.received_at) for one in uplinks} == {
        (one.topic, one.payload, one.received_at) for one in again
    }


async def test_what_goes_down_reaches_who_it_is_for(site: Site) -> None:
    hub = await site.start_hub()
    agent_id = uuid4()
    topic = topics.down(FLEET, agent_id, DownKind.ACK)
    listener = await site.server.connect("publisher")
    heard = await listener.subscribe(to_subject(topic))
    await listener.flush()
    assert hub.source.publish([Downlink(topic, b"%d" % n) for n in range(700)]) == 0
    assert hub.source.publish([Downlink(topic, b"x")] * 2_000) > 0  # there is room for 1,000
    got = [(await heard.next_msg(timeout=PATIENCE_S)).data for _ in range(700)]
    assert got == [b"%d" % n for n in range(700)]
    await listener.close()


async def test_a_poisoned_message_does_not_stop_its_partition(
    site: Site, fresh_database: Database
) -> None:
    refuse(fresh_database, "ledger_events", "type = 'agent.reported.self-test'")
    agent_id, log_id = await site.hub.add_agent(), uuid4()
    hub = await site.start_hub()
    payloads = [event(log_id, n) for n in range(1, 21)]
    payloads[6] = event(log_id, 7, type="self-test")
    await site.publish(agent_id, UpKind.HEARTBEAT, b"\x00{", heartbeat(1))
    await site.publish(agent_id, UpKind.EVENT, *payloads)
    await site.until_stored(19)
    [entry] = await site.hub.entries("event.malformed")
    assert entry["details"]["number"] == 7
    assert await site.hub.value("SELECT count(*) FROM dead_letters") == 1
    await hub.end()


async def test_a_server_that_is_killed_and_starts_again_is_found_again_and_nothing_is_lost(
    site: Site,
) -> None:
    agent_id, log_id = await site.hub.add_agent(), uuid4()
    hub = await site.start_hub()
    await site.publish(agent_id, UpKind.EVENT, *(event(log_id, n) for n in range(1, 301)))
    await site.until_kept(300)
    with capture_logs() as logs:
        await site.server.kill()
        await site.until(_is_set(hub.source.connected, False))
        await site.server.start()
        await site.until(_is_set(hub.source.connected))
    await site.publish(agent_id, UpKind.EVENT, *(event(log_id, n) for n in range(301, 401)))
    await site.until_stored(400)
    assert {"nats_lost", "nats_not_usable", "nats_connected"} <= {one["event"] for one in logs}
    await hub.end()


async def test_while_the_database_is_away_nothing_is_lost_and_then_all_is_stored_once(
    site: Site, fresh_database: Database
) -> None:
    agent_id, log_id = await site.hub.add_agent(), uuid4()
    hub = await site.start_hub()
    await site.publish(agent_id, UpKind.EVENT, event(log_id, 1))
    await site.until_stored(1)
    with capture_logs() as logs:
        shut(fresh_database)
        await site.publish(agent_id, UpKind.EVENT, *(event(log_id, n) for n in range(2, 301)))
        await site.until(_has(logs, "batch_waits_for_database"))
        await site.until(_has(logs, "leases_not_renewed"))
        open_again(fresh_database)
    await site.until_stored(300)
    assert hub.source.partitions == list(range(PARTITIONS))
    await hub.end()


async def test_another_ca_is_connected_with_at_once_and_nothing_is_lost(site: Site) -> None:
    agent_id, log_id = await site.hub.add_agent(), uuid4()
    hub = await site.start_hub()
    platform = site.server.platform
    for first in range(1, 400, 100):
        payloads = [event(log_id, n) for n in range(first, first + 100)]
        await site.publish(agent_id, UpKind.EVENT, *payloads)
        await site.until_kept(first + 99)
        hub.source.use(platform.service("hub").client_context(platform.ca_path))
    await site.until_stored(400)
    stranger = CertificateAuthority.create("test.example", datetime.now(UTC))
    other = site.server.folder / "other"
    other.mkdir()
    with capture_logs() as logs:
        hub.source.use(type(platform)(other, stranger).hub.client_context(other / "ca.pem"))
        await site.until(_has(logs, "nats_not_usable"))
    assert not hub.source.connected.is_set()
    hub.source.use(platform.hub.client_context(platform.ca_path))
    await site.publish(agent_id, UpKind.EVENT, event(log_id, 401))
    await site.until_stored(401)
    await hub.end()


async def test_a_stream_that_is_removed_is_made_again(site: Site) -> None:
    agent_id, log_id = await site.hub.add_agent(), uuid4()
    hub = await site.start_hub()
    await site.publish(agent_id, UpKind.EVENT, event(log_id, 1))
    await site.until_stored(1)
    async with site.stream() as stream:
        await stream.delete_stream(STREAM)

        async def is_back() -> bool:
            return STREAM in [one.config.name for one in await stream.streams_info()]

        await site.until(is_back)
    await site.until_share(hub, PARTITIONS)
    await site.publish(agent_id, UpKind.EVENT, event(log_id, 2))
    await site.until_stored(2)
    await hub.end()


async def test_another_number_of_partitions_is_not_taken_for_a_stream_that_is_there(
    site: Site,
) -> None:
    await (await site.start_hub()).end()
    site.settings = type(site.settings)(partitions=9, max_bytes=64 * 1024**2)
    with capture_logs() as logs:
        hub = await site.start_hub()
    assert hub.source.partitions == list(range(PARTITIONS))
    assert "stream_keeps_its_partitions" in [one["event"] for one in logs]
    async with site.stream() as stream:
        assert (await stream.stream_info(STREAM)).config.max_bytes == 64 * 1024**2
    await hub.end()


async def test_a_hub_whose_partition_has_a_new_holder_cannot_commit(site: Site) -> None:
    agent_id, log_id = await site.hub.add_agent(), uuid4()
    async with site.source() as source:
        await source.connected.wait()
        await site.publish(agent_id, UpKind.EVENT, *(event(log_id, n) for n in (1, 2)))
        uplinks: list[Uplink] = []
        while len(uplinks) < 2:
            uplinks += await source.receive(10, 0.2)
        async with site.hub.sessions() as session:
            await source.fence(session, uplinks)
        async with site.hub.sessions.begin() as session:
            await session.execute(sa.text("UPDATE uplink_partitions SET epoch = epoch + 1"))
        async with site.hub.sessions() as session:
            with pytest.raises(LeaseLost) as lost:
                await source.fence(session, uplinks)
        assert lost.value.kept == []


def _is_set(flag: asyncio.Event, wanted: bool = True) -> Condition:
    async def check() -> bool:
        return flag.is_set() is wanted

    return check


def _has(logs: Sequence[Mapping[str, Any]], name: str) -> Condition:
    async def check() -> bool:
        return name in [one["event"] for one in logs]

    return check
