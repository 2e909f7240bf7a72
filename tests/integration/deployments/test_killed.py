"""Killing the controller at any step, and starting another, changes nothing but time."""

import asyncio
import multiprocessing
import signal
from uuid import UUID

import sqlalchemy as sa

from tensorguard.rollouts.strategy import parse_strategy
from tensorguard.services.deployments import moving
from tensorguard.store import tables
from tensorguard.store.deployments import count_rollbacks
from tests.integration.deployments import killable
from tests.integration.deployments.builders import OPERATOR, Platform
from tests.postgres import Database

_SPAWN = multiprocessing.get_context("forkserver")
_SPAWN.set_forkserver_preload(["tests.integration.deployments.killable"])


async def step_through_kills(platform: Platform, database: Database) -> int:
    """Let controllers step, each killed one commit later than the one before, until one lives.

    Returns how many were killed.
    """
    for commit in range(1, 30):
        child = _SPAWN.Process(
            target=killable.step_until_killed,
            args=(database.app_url, platform.folder, platform.clock.now, commit),
        )
        child.start()
        await asyncio.to_thread(child.join)
        if child.exitcode == 0:
            return commit - 1
        assert child.exitcode == -signal.SIGKILL
    raise AssertionError("a step that never ends")


async def revisions(platform: Platform) -> dict[UUID, int]:
    table = tables.agent_desired.c
    async with platform.sessions() as session:
        rows = await session.execute(sa.select(table.agent_id, table.revision))
        return {agent_id: revision for agent_id, revision in rows}


async def test_a_deployment_goes_its_way_through_kills_at_every_transition(
    platform: Platform, fresh_database: Database
) -> None:
    fleet = await platform.add_fleet("f")
    agents = [await platform.add_agent(fleet) for _ in range(5)]
    release = await platform.release()
    gate = {"min_reported": 1, "soak_s": 0}
    strategy = parse_strategy({"stages": [{"percent": 60, "gate": gate}, {"percent": 100}]})
    deployment = await platform.start(release, fleet, strategy=strategy)
    killed = await step_through_kills(platform, fresh_database)  # tells the canary, in two batches
    canary = set(await platform.send())
    assert len(canary) == 3
    for agent in canary:
        await platform.heartbeat(agent, runs=release.package_digest)
    killed += await step_through_kills(platform, fresh_database)  # advances
    assert (await platform.find(deployment)).stage == 1
    killed += await step_through_kills(platform, fresh_database)  # tells the rest
    rest = set(await platform.send())
    assert canary | rest == set(agents)
    assert set((await revisions(platform)).values()) == {1}
    for agent in rest:
        await platform.heartbeat(agent, runs=release.package_digest)
    killed += await step_through_kills(platform, fresh_database)  # completes
    assert (await platform.find(deployment)).state == "completed"

    await platform.do(
        moving.roll_back_deployment,
        deployment.id,
        reason="worse",
        by=OPERATOR,
        now=platform.clock.now,
    )
    killed += await step_through_kills(platform, fresh_database)  # tells everybody to go back
    assert set(await platform.send()) == set(agents)
    assert set((await revisions(platform)).values()) == {2}
    for agent in agents:
        await platform.heartbeat(agent, runs=release.package_digest)
    killed += await step_through_kills(platform, fresh_database)  # is over
    assert (await platform.find(deployment)).state == "rolled_back"
    counts = await platform.do(count_rollbacks, [deployment.id])
    assert counts[deployment.id] == {"done": 5}
    assert killed >= 15
    events = await platform.events("deployment")
    assert events == [
        "deployment.created",
        "deployment.started",
        "deployment.advanced",
        "deployment.completed",
        "deployment.rolling-back",
        "deployment.rolled-back",
    ]
