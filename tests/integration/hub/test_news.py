"""What the hub tells those who watch: transitions, progress, heartbeats; not each of them."""

from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from hub.news import News, Newscaster
from hub.presence import PresenceSweeper
from tensorguard.services import hints
from tensorguard.services.evidence.event import SYSTEM
from tensorguard.services.evidence.events import (
    AgentRevoked,
    FleetCreated,
    GrantDenied,
    TokenRevoked,
)
from tensorguard.services.hints import Hint, HintKind, hints_of
from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tensorguard.store.tables import stream_events
from tests.integration.hub.builders import FLEET, Hub
from tests.unit.protocol.builders import SHA256

Row = tuple[str, str | None, str | None, int | None]


@dataclass
class Told:
    """Reads the hints written since the last look."""

    sessions: SessionMaker
    seen: int = 0

    async def __call__(self) -> set[Row]:
        table = stream_events.c
        query = sa.select(table.id, table.kind, table.subject_id, table.fleet, table.count)
        async with self.sessions() as session:
            rows = (await session.execute(query.where(table.id > self.seen))).all()
        self.seen = max([self.seen, *(row.id for row in rows)])
        return {tuple(row)[1:] for row in rows}


async def test_the_sweep_tells_each_transition_and_a_heartbeat_alone_tells_nothing(
    hub: Hub,
) -> None:
    agent_id = await hub.add_agent()
    sweeper, told = PresenceSweeper(hub.sessions, hub.clock), Told(hub.sessions)
    await told()
    await hub.take(hub.heartbeat(agent_id, 1))
    assert await told() == set()
    change = {("agent", str(agent_id), FLEET, None), ("overview", None, None, None)}
    assert (await sweeper.sweep(), await told()) == (1, change)
    await hub.take(hub.heartbeat(agent_id, 2))
    assert (await sweeper.sweep(), await told()) == (0, set())
    package = {"name": "model", "version": "1", "digest": "5e" * 32}
    await hub.take(hub.heartbeat(agent_id, 3, package=package))
    assert (await sweeper.sweep(), await told()) == (1, change)
    hub.clock.advance(hours=1)
    assert (await sweeper.sweep(), await told()) == (1, change)


async def test_a_fleet_that_goes_away_as_a_whole_is_one_hint(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.presence.MAX_NAMED", 2)
    agents = [await hub.add_agent() for _ in range(3)]
    told = Told(hub.sessions)
    await told()
    await hub.take(*(hub.heartbeat(one, 1) for one in agents))
    assert await PresenceSweeper(hub.sessions, hub.clock).sweep() == 3
    assert await told() == {("agent", None, FLEET, None), ("overview", None, None, None)}


async def test_heartbeats_are_told_as_one_count_a_second_and_their_end_once(hub: Hub) -> None:
    agents = [await hub.add_agent() for _ in range(3)]
    told, cast = Told(hub.sessions), Newscaster(hub.sessions, hub.work.news, hub.clock)
    await cast.step()
    assert ("agent", None, None, None) in await told()  # a hub that starts: whatever came before
    for seq in (1, 2):
        await hub.take(*(hub.heartbeat(one, seq) for one in agents))
    await cast.step()
    assert await told() == {("heartbeats", None, None, 3 + 3)}
    await cast.step()
    assert await told() == {("heartbeats", None, None, 0)}
    await cast.step()
    assert await told() == set()


async def test_news_that_could_not_be_written_are_told_later(hub: Hub) -> None:
    deployment, news = uuid4(), News()
    cast, told = Newscaster(hub.sessions, news, hub.clock), Told(hub.sessions)
    await cast.step()
    await told()
    news.add(5, {deployment})
    away = create_engine("postgresql://nobody@127.0.0.1:1/none", service="test")
    await Newscaster(session_maker(away), news, hub.clock).step()
    news.add(2, set())
    await cast.step()
    assert await told() == {
        ("deployment", str(deployment), None, None),
        ("heartbeats", None, None, 7),
    }


def test_what_devices_do_at_will_gives_no_hints_and_what_people_see_gives_some() -> None:
    agent, token = UUID(int=1), UUID(int=2)
    denied = GrantDenied(
        by=SYSTEM, fleet="a", agent_id=agent, request_id=token, package_digest=SHA256, reason="x"
    )
    assert hints_of([denied]) == []
    assert hints_of([]) == []
    events = [
        FleetCreated(by=SYSTEM, fleet="a"),
        AgentRevoked(by=SYSTEM, fleet="a", agent_id=agent, reason="lost"),
        TokenRevoked(by=SYSTEM, fleet="a", token_id=token),
        denied,
    ]
    assert hints_of(events) == [
        Hint(HintKind.FLEET, "a", "a"),
        Hint(HintKind.AGENT, str(agent), "a"),
        hints.OVERVIEW,
    ]
