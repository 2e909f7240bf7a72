"""Reading the stream again: for a database that has lost what hubs had committed."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg

from hub.nats.consumers import list_consumers
from hub.replay import replay_since
from hub.settings import HubSettings
from tensorguard.protocol.topics import UpKind
from tests.integration.streaming.hubs import Site, event, heartbeat
from tests.postgres import Database

LOSE = """
    DELETE FROM heartbeats;
    UPDATE agent_state SET boot_count = -1, seq = -1, received_at = NULL
"""


async def test_what_a_database_has_lost_is_stored_again_and_what_it_has_is_not(
    site: Site, fresh_database: Database, tmp_path: Path
) -> None:
    agents, log_id = [await site.hub.add_agent() for _ in range(10)], uuid4()
    hub = await site.start_hub()

    async def publish(seqs: range) -> None:
        for agent_id in agents:
            await site.publish(agent_id, UpKind.HEARTBEAT, *map(heartbeat, seqs))
            await site.publish(agent_id, UpKind.EVENT, *(event(log_id, n) for n in seqs))

    async def has_stored(heartbeats: int) -> bool:
        return bool(await site.hub.value("SELECT count(*) FROM heartbeats") == heartbeats)

    await publish(range(1, 11))
    await site.until_stored(100)
    await asyncio.sleep(0.05)
    since = datetime.now(UTC)
    await publish(range(11, 21))
    await site.until_stored(200)
    await site.until(lambda: has_stored(200))
    before = {number: held.epoch for number, held in hub.source._share._open.items()}
    with psycopg.connect(fresh_database.owner_url) as connection:
        connection.execute(LOSE)
    settings = HubSettings(
        database_url=fresh_database.app_url,
        data_dir=tmp_path,
        broker_engine="nats",
        nats_url=site.server.url,
    )
    partitions, messages = await replay_since(settings, since)
    assert (partitions, messages) == (len(before), 200)
    await site.until(lambda: has_stored(100))
    await site.until_share(hub, partitions)
    await publish(range(21, 22))
    await site.until(lambda: has_stored(110))
    await site.until_stored(210)
    after = {number: held.epoch for number, held in hub.source._share._open.items()}
    assert all(after[number] > before[number] for number in before)
    async with site.stream() as stream:
        found = await list_consumers(stream)
    assert all(len(consumers) == 1 for consumers in found.values())
    await hub.end()
    partitions, messages = await replay_since(settings, datetime.now(UTC) - timedelta(hours=1))
    assert messages == 420
    again = await site.start_hub()  # nobody ran while the replay was asked for

    async def all_is_read() -> bool:
        async with site.stream() as stream:
            found = await list_consumers(stream)
        return all(consumers[-1].unread == 0 for consumers in found.values())

    await site.until(all_is_read)
    await site.until_stored(210)
    await again.end()
