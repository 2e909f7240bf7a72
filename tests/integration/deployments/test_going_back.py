"""Rollbacks: everybody who was told of a release gets back what it ran."""

from uuid import UUID

import sqlalchemy as sa

from tensorguard.rollouts.strategy import parse_strategy
from tensorguard.services.deployments import desired, moving
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store import tables
from tensorguard.store.deployments import Deployment, count_rollbacks, list_deployment_agents
from tensorguard.store.packages import Release
from tests.integration.deployments.builders import OPERATOR, Platform


async def roll_back(platform: Platform, deployment: Deployment) -> None:
    await platform.do(
        moving.roll_back_deployment,
        deployment.id,
        reason="too many false alarms",
        by=OPERATOR,
        now=platform.clock.now,
    )


async def running(platform: Platform, fleet: str, release: Release, agents: list[UUID]) -> None:
    """Have the agents run a release, by a deployment that is over."""
    await platform.start(release, fleet)
    await platform.controller().step()
    await platform.send()
    for agent in agents:
        await platform.heartbeat(agent, runs=release.package_digest)
    await platform.controller().step()
    platform.clock.advance(seconds=1)


async def test_a_rollback_gives_back_exactly_what_ran_before(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agents = [await platform.add_agent(fleet) for _ in range(3)]
    old = await platform.release()
    await running(platform, fleet, old, agents)
    newcomer = await platform.add_agent(fleet)
    new = await platform.release()
    deployment = await platform.start(new, fleet)
    controller = platform.controller()
    await controller.step()
    before = await platform.send()
    await platform.heartbeat(agents[0], runs=new.package_digest)
    await platform.heartbeat(newcomer, runs=new.package_digest)
    await platform.report(deployment, agents[1], "downloading", "failed", reason="broken")
    await controller.step()

    await roll_back(platform, deployment)
    await controller.step()
    documents = await platform.send()
    assert set(documents) == {*agents, newcomer}
    for agent in agents:
        document = documents[agent]
        assert document.package is not None
        assert document.package.digest == old.package_digest.hex()
        assert document.allow_downgrade
        assert document.deployment_id == deployment.id
        assert document.revision > before[agent].revision
    assert documents[newcomer].package is None
    await controller.step()
    assert (await platform.find(deployment)).state == "rolling_back"
    for agent in agents:
        await platform.heartbeat(agent, runs=old.package_digest)
    await platform.heartbeat(newcomer, runs=new.package_digest)
    await controller.step()
    found = await platform.find(deployment)
    assert (found.state, found.state_reason) == ("rolled_back", "")
    counts = await platform.do(count_rollbacks, [deployment.id])
    assert counts == {deployment.id: {"done": 4}}
    assert (await platform.states(deployment))["succeeded"] == 2
    assert await platform.events("deployment.roll") == [
        "deployment.rolling-back",
        "deployment.rolled-back",
    ]


async def test_a_failed_gate_rolls_back_by_itself_and_who_was_away_goes_back_later(
    platform: Platform,
) -> None:
    fleet = await platform.add_fleet("f")
    agents = [await platform.add_agent(fleet) for _ in range(4)]
    old = await platform.release()
    await running(platform, fleet, old, agents)
    gate = {"min_reported": 1, "max_failure": 0.1, "soak_s": 0}
    strategy = parse_strategy(
        {"stages": [{"percent": 100, "gate": gate}], "on_failure": "rollback"}
    )
    new = await platform.release()
    deployment = await platform.start(new, fleet, strategy=strategy)
    controller = platform.controller()
    await controller.step()
    await platform.send()
    await platform.heartbeat(agents[0], runs=new.package_digest)
    await platform.set_presence(agents[0], "offline")
    await platform.report(deployment, agents[1], "downloading", "failed", reason="broken")
    await controller.step()
    assert (await platform.find(deployment)).state == "rolling_back"
    await controller.step()
    await platform.send()
    for agent in agents[1:]:
        await platform.heartbeat(agent, runs=old.package_digest)
    await controller.step()
    assert (await platform.find(deployment)).state == "rolling_back"
    platform.clock.advance(minutes=3)
    await controller.step()
    found = await platform.find(deployment)
    assert found.state == "rolled_back"
    assert found.state_reason == "1 agents were offline; they go back when they return"
    await platform.set_presence(agents[0], "online")
    assert agents[0] in await platform.send()


async def test_a_later_deployment_keeps_what_it_has(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    first = await platform.start(await platform.release(), fleet)
    controller = platform.controller()
    await controller.step()
    platform.clock.advance(seconds=1)
    later = await platform.release()
    await platform.start(later, fleet)
    await controller.step()
    await roll_back(platform, first)
    await controller.step()
    documents = await platform.send()
    assert documents[agent].package is not None
    assert documents[agent].package.digest == later.package_digest.hex()
    assert (await platform.find(first)).state == "rolled_back"


async def test_an_agent_that_cannot_go_back_is_said_with_its_reason(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    await running(platform, fleet, await platform.release(), [agent])
    new = await platform.release()
    deployment = await platform.start(new, fleet)
    controller = platform.controller()
    await controller.step()
    await platform.send()
    await platform.heartbeat(agent, runs=new.package_digest)
    await controller.step()
    await roll_back(platform, deployment)
    await controller.step()
    await platform.send()
    await platform.report(deployment, agent, "failed", reason="no room for it")
    await controller.step()
    found = await platform.find(deployment)
    assert (found.state, found.state_reason) == ("rolled_back", "1 agents could not go back")
    (row,) = await platform.do(list_deployment_agents, deployment.id, limit=9)
    assert (row.rollback, row.rollback_reason) == ("failed", "no room for it")


async def test_agents_follow_a_database_that_was_restored(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    await platform.start(await platform.release(), fleet)
    await platform.controller().step()
    await platform.send()
    async with platform.sessions.begin() as session:
        await session.execute(sa.update(tables.platform).values(epoch=2))
    async with platform.sessions() as session:
        restored = await Keyring.load(session, platform.kek)
    async with platform.sessions.begin() as session:
        found = await desired.documents_for(session, restored, [agent], now=platform.clock.now)
    document = platform.open(agent, found[agent])
    assert (document.epoch, document.revision) == (2, 1)
