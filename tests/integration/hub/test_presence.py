"""Presence: moved by deadlines and by what fronts say, written only when it changes."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from hub.batch import sort
from hub.heartbeats import store_heartbeats
from hub.presence import PresenceSweeper, store_connections
from hub.uplink import Uplink
from tensorguard.protocol.topics import FrontKind, UpKind
from tensorguard.store.engine import SessionMaker, driver_connection
from tests.integration.hub.builders import Clock, add_agent, uplink
from tests.unit.protocol.builders import BOOT_ID

SECOND = timedelta(seconds=1)


class Watched:
    """One agent, what is heard of it, and its status."""

    def __init__(self, sessions: SessionMaker, agent_id: UUID, clock: Clock) -> None:
        self.sessions, self.agent_id, self.clock = sessions, agent_id, clock
        self.sweeper = PresenceSweeper(sessions, clock)
        self.seq = 0

    async def hear(self, *uplinks: Uplink) -> None:
        batch = sort(uplinks)
        async with self.sessions.begin() as session:
            await store_heartbeats(await driver_connection(session), batch.heartbeats, {})
            await store_connections(session, batch.connected, batch.disconnected, batch.wills)

    async def beat(self, **changes: Any) -> None:
        self.seq += 1
        known = {"seq": self.seq, **changes}
        await self.hear(uplink(UpKind.HEARTBEAT, self.agent_id, self.clock.now, **known))

    def connected(self, front: str = "front-1", **changes: Any) -> Uplink:
        return uplink(FrontKind.CONNECTED, self.agent_id, self.clock.now, front=front, **changes)

    def disconnected(self, front: str = "front-1", **changes: Any) -> Uplink:
        return uplink(FrontKind.DISCONNECTED, self.agent_id, self.clock.now, front=front, **changes)

    def will(self, boot_id: object = BOOT_ID) -> Uplink:
        return uplink(UpKind.WILL, self.agent_id, self.clock.now, boot_id=str(boot_id))

    async def row(self) -> sa.Row[Any]:
        async with self.sessions() as session:
            statement = sa.text("SELECT * FROM agent_status WHERE agent_id = :id")
            return (await session.execute(statement, {"id": self.agent_id})).one()

    async def presence(self) -> str:
        await self.sweeper.sweep()
        return str((await self.row()).presence)


@pytest.fixture
async def agent(sessions: SessionMaker) -> Watched:
    clock = Clock()
    return Watched(sessions, await add_agent(sessions, clock.now), clock)


def earlier(moment: datetime, **duration: float) -> str:
    return (moment - timedelta(**duration)).isoformat()


async def test_presence_follows_the_deadlines_of_the_last_heartbeat(agent: Watched) -> None:
    assert await agent.presence() == "never"
    await agent.beat()
    assert await agent.presence() == "online"
    agent.clock.advance(seconds=89.9)
    assert await agent.presence() == "online"
    agent.clock.advance(seconds=0.1)
    assert await agent.presence() == "late"
    agent.clock.advance(seconds=89.9)
    assert await agent.presence() == "late"
    agent.clock.advance(seconds=0.1)
    assert await agent.presence() == "offline"
    await agent.beat()
    assert await agent.presence() == "online"


async def test_status_is_written_on_transition_only(agent: Watched) -> None:
    await agent.beat()
    assert await agent.sweeper.sweep() == 1
    since = (await agent.row()).presence_since
    for _ in range(3):
        agent.clock.advance(seconds=30)
        await agent.beat()
        assert await agent.sweeper.sweep() == 0
    assert (await agent.row()).presence_since == since


async def test_a_change_of_the_running_package_is_dated_and_leaves_presence_alone(
    agent: Watched,
) -> None:
    await agent.beat(package=None)
    await agent.sweeper.sweep()
    online_since = (await agent.row()).presence_since
    agent.clock.advance(seconds=10)
    await agent.beat()
    assert await agent.sweeper.sweep() == 1
    row = await agent.row()
    assert bytes(row.running_digest).hex() == "ab" * 32
    assert (row.running_since, row.presence_since) == (agent.clock.now, online_since)


async def test_an_agent_whose_connection_ends_is_offline_at_the_next_sweep(
    agent: Watched,
) -> None:
    await agent.hear(agent.connected())
    await agent.beat()
    assert await agent.presence() == "online"
    agent.clock.advance(seconds=5)
    await agent.hear(agent.disconnected())
    assert await agent.presence() == "offline"
    agent.clock.advance(seconds=5)
    await agent.hear(agent.connected())
    assert await agent.presence() == "online"


async def test_a_heartbeat_after_the_end_of_a_connection_brings_it_back(agent: Watched) -> None:
    await agent.hear(agent.connected())
    await agent.hear(agent.disconnected(at=(agent.clock.now + SECOND).isoformat()))
    agent.clock.advance(seconds=2)
    await agent.beat()
    assert await agent.presence() == "online"


async def test_the_end_of_a_session_stands_above_a_heartbeat_that_was_long_on_its_way(
    agent: Watched,
) -> None:
    await agent.hear(agent.connected())
    ended = agent.disconnected()
    agent.clock.advance(seconds=3)  # the hub was busy: it dates the heartbeat when it takes it
    await agent.beat()
    await agent.hear(ended)
    assert await agent.presence() == "offline"


async def test_what_an_old_front_says_late_changes_nothing(agent: Watched) -> None:
    await agent.beat()
    await agent.hear(agent.connected("front-1"))
    agent.clock.advance(seconds=5)
    await agent.hear(agent.connected("front-2"))
    agent.clock.advance(seconds=5)
    await agent.hear(agent.disconnected("front-1"))
    assert await agent.presence() == "online"
    late = agent.connected("front-1", at=earlier(agent.clock.now, seconds=10))
    await agent.hear(late)
    row = await agent.row()
    assert (row.front_id, row.connected_at) == ("front-2", agent.clock.now - 5 * SECOND)


async def test_news_that_come_twice_do_not_bring_a_session_back(agent: Watched) -> None:
    await agent.beat()
    connected = agent.connected()
    agent.clock.advance(seconds=5)
    disconnected = agent.disconnected()
    await agent.hear(connected, disconnected)
    await agent.hear(connected)
    assert await agent.presence() == "offline"
    assert (await agent.row()).front_id is None


@pytest.mark.parametrize("reverse", [False, True])
async def test_in_one_batch_time_decides_and_not_the_order_of_arrival(
    agent: Watched, reverse: bool
) -> None:
    await agent.beat()
    now = agent.clock.now
    news = [
        agent.connected("front-1", at=(now + 1 * SECOND).isoformat()),
        agent.disconnected("front-1", at=(now + 2 * SECOND).isoformat()),
        agent.connected("front-2", at=(now + 3 * SECOND).isoformat()),
        agent.disconnected("front-1", at=(now + 4 * SECOND).isoformat()),
    ]
    await agent.hear(*(reversed(news) if reverse else news))
    row = await agent.row()
    assert (row.front_id, row.disconnected_at) == ("front-2", None)
    assert await agent.presence() == "online"


async def test_of_two_ends_in_one_batch_the_right_fronts_counts(agent: Watched) -> None:
    await agent.beat()
    await agent.hear(agent.connected("front-2"))
    agent.clock.advance(seconds=5)
    await agent.hear(agent.disconnected("front-2"), agent.disconnected("front-1"))
    assert await agent.presence() == "offline"


async def test_a_will_counts_where_no_front_told_of_the_connection(agent: Watched) -> None:
    await agent.beat()
    agent.clock.advance(seconds=5)
    await agent.hear(agent.will(uuid4()))
    assert await agent.presence() == "online"
    await agent.hear(agent.will())
    assert await agent.presence() == "offline"


async def test_a_will_does_not_end_a_connection_that_a_front_holds(agent: Watched) -> None:
    await agent.beat()
    await agent.hear(agent.connected())
    agent.clock.advance(seconds=5)
    await agent.hear(agent.will())
    assert await agent.presence() == "online"


async def test_the_first_connection_of_each_certificate_is_dated_once(
    agent: Watched, sessions: SessionMaker
) -> None:
    async with sessions.begin() as session:
        for serial in ("aa", "bb", "cc"):
            await session.execute(
                sa.text(
                    "INSERT INTO certificates (serial, agent_id, spki_sha256, certificate,"
                    " not_before, not_after, issued_at, authority_key_id)"
                    " VALUES (:serial, :agent, '', '', :now, :now, :now, '')"
                ),
                {"serial": serial, "agent": agent.agent_id, "now": agent.clock.now},
            )
    start = agent.clock.now
    await agent.hear(
        agent.connected(serial="aa"),
        agent.connected(serial="bb", at=(start + SECOND).isoformat()),
        agent.connected(serial="aa", at=(start + 2 * SECOND).isoformat()),
    )
    agent.clock.advance(seconds=10)
    await agent.hear(agent.connected(serial="bb"))
    async with sessions() as session:
        rows = await session.execute(
            sa.text("SELECT first_connected_at FROM certificates ORDER BY serial")
        )
        assert list(rows.scalars()) == [start, start + SECOND, None]


async def test_two_sweepers_at_once_write_each_transition_once(
    agent: Watched, sessions: SessionMaker
) -> None:
    await agent.beat()
    other = PresenceSweeper(sessions, agent.clock)
    async with sessions() as session:
        await session.execute(sa.text("SELECT 1 FROM agent_status FOR UPDATE"))
        assert await other.sweep() == 0  # it neither waits nor writes
        await session.rollback()
    assert await other.sweep() + await agent.sweeper.sweep() == 1
