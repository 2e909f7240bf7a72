"""What happens to a deployment that nobody has asked for: it says so, and never advances alone."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from tensorguard.rollouts.strategy import Strategy, parse_strategy
from tensorguard.services.deployments import desired
from tensorguard.services.deployments.outlook import look
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store import tables
from tensorguard.store.deployments import Deployment
from tests.integration.deployments.builders import Platform

GATE = {"min_reported": 2, "soak_s": 0}
STAGED = parse_strategy({"stages": [{"percent": 50, "gate": GATE}, {"percent": 100}]})
AT_ONCE = parse_strategy({"stages": [{"percent": 100}]})


async def begun(
    platform: Platform, count: int, strategy: Strategy
) -> tuple[Deployment, list[UUID], bytes]:
    fleet = await platform.add_fleet("f")
    agents = [await platform.add_agent(fleet) for _ in range(count)]
    release = await platform.release()
    deployment = await platform.start(release, fleet, strategy=strategy)
    return deployment, agents, release.package_digest


async def told(platform: Platform) -> list[UUID]:
    await platform.controller().step()
    return sorted(await platform.send())


async def waits_for(platform: Platform, deployment: Deployment) -> str:
    found = await platform.find(deployment)
    return (await platform.do(look, found, now=platform.clock.now)).waits_for


async def turn(platform: Platform, agents: Sequence[UUID], presence: str) -> None:
    for agent in agents:
        await platform.set_presence(agent, presence)


async def test_a_fleet_that_is_emptied_stops_it_before_the_next_stage(platform: Platform) -> None:
    deployment, agents, _ = await begun(platform, 6, STAGED)
    canary = await told(platform)
    for agent in canary:
        await platform.set_status(agent, "revoked")
    await platform.controller().step()
    found = await platform.find(deployment)
    assert (found.state, found.stage) == ("paused", 0)
    assert found.state_reason.endswith("0 agents have reported, 2 have to, and no more will come")
    for agent in agents:
        await platform.set_status(agent, "revoked")
    platform.clock.advance(days=1)
    assert await told(platform) == []


async def test_while_everybody_is_offline_it_waits_and_says_for_whom(platform: Platform) -> None:
    deployment, agents, digest = await begun(platform, 4, STAGED)
    await turn(platform, agents, "offline")
    for _ in range(3):
        assert await told(platform) == []
        platform.clock.advance(hours=2)
    assert await platform.states(deployment) == {"pending": 4}
    assert await waits_for(platform, deployment) == (
        "0 agents have reported, 2 have to, 2 agents are offline"
    )
    await turn(platform, agents, "online")
    canary = await told(platform)
    assert len(canary) == 2
    for agent in canary:
        await platform.heartbeat(agent, runs=digest)
    await platform.controller().step()
    assert (await platform.find(deployment)).stage == 1


async def test_at_once_to_agents_that_are_all_offline_is_not_over_before_one_has_it(
    platform: Platform,
) -> None:
    deployment, agents, digest = await begun(platform, 3, AT_ONCE)
    await turn(platform, agents, "offline")
    platform.clock.advance(days=7)
    assert await told(platform) == []
    assert (await platform.find(deployment)).state == "running"
    assert await waits_for(platform, deployment) == "3 agents are offline"
    await turn(platform, agents[:1], "online")
    assert await told(platform) == agents[:1]
    controller = platform.controller()
    platform.clock.advance(minutes=2)
    await platform.heartbeat(agents[0], runs=digest)
    await controller.step()
    found = await platform.find(deployment)
    assert (found.state, found.state_reason.split(";")[0]) == ("completed", "2 agents were offline")


async def test_a_later_deployment_takes_the_canary_and_the_older_one_stops(
    platform: Platform,
) -> None:
    older, agents, _ = await begun(platform, 4, STAGED)
    await told(platform)
    platform.clock.advance(seconds=1)
    newer = await platform.release()
    await platform.start(newer, "f", strategy=AT_ONCE)
    assert await told(platform) == sorted(agents)
    for agent in agents:
        await platform.heartbeat(agent, runs=newer.package_digest)
    await platform.controller().step()
    found = await platform.find(older)
    assert (found.state, found.stage) == ("paused", 0)
    assert "no more will come" in found.state_reason
    assert await platform.states(older) == {"superseded": 4}


async def test_a_restored_database_takes_its_agents_back_and_fails_nobody(
    platform: Platform,
) -> None:
    """The backup is of before a later deployment, which the agents have followed already."""
    gate = {"min_reported": 1, "max_failure": 0.0, "soak_s": 60}
    deployment, agents, digest = await begun(
        platform, 2, parse_strategy({"stages": [{"percent": 100, "gate": gate}]})
    )
    await told(platform)
    for agent in agents:
        await platform.heartbeat(agent, runs=digest)
    state, lost = tables.agent_state, bytes(32)
    async with platform.sessions.begin() as session:
        await session.execute(sa.update(tables.platform).values(epoch=2))
        await session.execute(
            sa.update(state).values(desired_epoch=1, desired_revision=7, package_digest=lost)
        )
    async with platform.sessions() as session:
        platform.keyring = await Keyring.load(session, platform.kek)
    await platform.confirm(dict.fromkeys(agents, lost))
    await platform.controller().step()
    assert await platform.states(deployment) == {"succeeded": 2}

    async with platform.sessions.begin() as session:
        found = await desired.documents_for(
            session, platform.keyring, agents, now=platform.clock.now
        )
    documents = [platform.open(agent, found[agent]) for agent in agents]
    assert {(one.epoch, one.revision) for one in documents} == {(2, 1)}
    for agent in agents:
        await platform.heartbeat(agent, runs=digest)
    await platform.controller().step()
    platform.clock.advance(seconds=61)
    for agent in agents:
        await platform.heartbeat(agent, runs=digest)
    await platform.controller().step()
    assert (await platform.find(deployment)).state == "completed"
    assert await platform.states(deployment) == {"succeeded": 2}
    later = await platform.start(await platform.release(), "f", strategy=AT_ONCE)
    assert await told(platform) == sorted(agents)
    assert await platform.states(later) == {"pending": 2}
