"""Two hubs as they are run, with all their loops: nothing happens twice, nothing waits for ever."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import sqlalchemy as sa

from hub.main import run
from hub.settings import HubSettings
from tensorguard.protocol import topics
from tensorguard.protocol.subjects import to_topic
from tensorguard.protocol.topics import DownKind, UpKind
from tensorguard.services.evidence.event import Actor
from tensorguard.services.fleets.fleets import create_fleet, set_config
from tensorguard.store.tables import fleets
from tests.integration.hub.builders import FLEET
from tests.integration.nats.server import free_ports
from tests.integration.streaming.hubs import PARTITIONS, Site, event, heartbeat
from tests.postgres import Database

LONG_THERE = sa.text("UPDATE agent_status SET presence_since = now() - interval '1 minute'")
HOLDERS = "SELECT count(DISTINCT hub_id) FROM uplink_partitions"


async def sign_config(site: Site) -> None:
    """Make the fleet again, with a signed configuration."""
    by, now = Actor("user", "ann"), site.hub.clock.now
    async with site.hub.sessions.begin() as session:
        await session.execute(sa.delete(fleets))
        await create_fleet(session, site.hub.keyring, slug=FLEET, name="A", by=by, now=now)


@asynccontextmanager
async def whole_hub(site: Site, database: Database, folder: Path) -> AsyncIterator[asyncio.Event]:
    """A hub as `tensorguard hub run` runs it, ready; the event ends it as SIGTERM does."""
    settings = HubSettings(
        database_url=database.app_url,
        data_dir=folder,
        broker_engine="nats",
        nats_url=f"tls://localhost:1, {site.server.url}",  # one of two is away
        nats_partitions=PARTITIONS,
        hub_metrics=f"127.0.0.1:{free_ports(1)[0]}",
        flush_after=timedelta(milliseconds=50),
    )
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(run(settings, stop, ready.set))
    waits = [task, asyncio.create_task(ready.wait())]
    await asyncio.wait(waits, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    assert ready.is_set(), task
    try:
        async with httpx.AsyncClient() as client:
            said = (await client.get(f"http://{settings.hub_metrics}/metrics")).text
        assert "tensorguard_hub_stream_fill_ratio" in said
        yield stop
    finally:
        stop.set()
        await task


async def test_two_hubs_tell_once_what_all_are_told_and_one_goes_on_alone(
    site: Site, fresh_database: Database, tmp_path: Path
) -> None:
    await sign_config(site)
    agents = [await site.hub.add_agent() for _ in range(10)]
    log_id, said = uuid4(), Counter[str]()
    listener = await site.server.connect("publisher")

    async def count(message: object) -> None:
        said[to_topic(message.subject)] += 1  # type: ignore[attr-defined] # nats-py's Msg

    await listener.subscribe(f"tg.v1.{FLEET}.*.down.*", cb=count)
    await listener.flush()
    to_all = {kind: topics.fleet_down(FLEET, kind) for kind in DownKind}

    async def store(first: int, to: int) -> None:
        for agent_id in agents:
            payloads = [event(log_id, number) for number in range(first, to + 1)]
            await site.publish(agent_id, UpKind.EVENT, *payloads)
            await site.publish(agent_id, UpKind.HEARTBEAT, heartbeat(to))
        await site.until_stored(to * len(agents))

    async def change_config(interval_s: int) -> None:
        async with site.hub.sessions.begin() as session:
            by = Actor("user", "ann")
            values = {"heartbeat_interval_s": interval_s, "by": by, "now": site.hub.clock.now}
            await set_config(session, site.hub.keyring, FLEET, **values)

    async def presence_is_known() -> bool:
        query = "SELECT count(*) FROM agent_status WHERE presence = 'online'"
        return bool(await site.hub.value(query) == len(agents))

    async def two_hold() -> bool:
        return bool(await site.hub.value(HOLDERS) == 2)

    async def one_holds() -> bool:
        free = "SELECT count(*) FROM uplink_partitions WHERE hub_id IS NULL"
        return bool(await site.hub.value(HOLDERS) == 1 and await site.hub.value(free) == 0)

    async def all_is_sequenced() -> bool:
        return bool(await site.hub.value("SELECT count(*) FROM ledger_unsequenced") == 0)

    async def until_said(kind: DownKind, times: int) -> None:
        async def is_said() -> bool:
            return said[to_all[kind]] >= times

        await site.until(is_said)
        assert said[to_all[kind]] == times

    async with (
        whole_hub(site, fresh_database, tmp_path) as first,
        whole_hub(site, fresh_database, tmp_path),
    ):
        await site.until(two_hold)
        await store(1, 10)
        await site.until(presence_is_known)
        assert said[to_all[DownKind.CHECKPOINT]] == 0  # others of a new fleet may be on their way
        async with site.hub.sessions.begin() as session:
            await session.execute(LONG_THERE)
        await until_said(DownKind.CHECKPOINT, 1)
        await until_said(DownKind.CONFIG, 1)  # a new fleet's
        for times, interval_s in enumerate((20, 30, 40), 2):
            await change_config(interval_s)
            await until_said(DownKind.CONFIG, times)
        hints = "SELECT count(*) FROM stream_events WHERE kind = 'agent' AND subject_id IS NOT NULL"
        assert await site.hub.value(hints) == len(agents)
        first.set()
        await site.until(one_holds)
        await store(11, 20)
        await change_config(50)
        await until_said(DownKind.CONFIG, 5)
        await site.until(all_is_sequenced)
    await listener.close()
    assert {said[to_all[DownKind.CONFIG]], said[to_all[DownKind.CHECKPOINT]]} == {5, 1}
    acked = [topic for topic in said if topic.endswith("/down/ack")]
    assert len(acked) == len(agents)
