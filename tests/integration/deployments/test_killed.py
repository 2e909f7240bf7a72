"""Killing the controller at any step, and starting another, changes nothing but time."""

import asyncio
import multiprocessing
import signal
from datetime import timedelta
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


async def test_what_a_gate_or_the_clock_decides_is_decided_once_through_kills(
    platform: Platform, fresh_database: Database
) -> None:
    """A start at its time, a rollback by a gate, a pause by a gate, an abort."""
    fleet = await platform.add_fleet("f")
    agents = [await platform.add_agent(fleet) for _ in range(3)]
    release = await platform.release()
    gate = {"min_reported": 1, "max_failure": 0.0, "soak_s": 0}
    stages = [{"percent": 100, "gate": gate}]
    back, stop = (
        parse_strategy({"stages": stages, "on_failure": one}) for one in ("rollback", "pause")
    )
    at = platform.clock.now + timedelta(hours=1)
    first = await platform.start(release, fleet, strategy=back, start_at=at)
    platform.clock.advance(hours=1)
    killed = await step_through_kills(platform, fresh_database)  # starts
    assert (await platform.find(first)).state == "running"
    killed += await step_through_kills(platform, fresh_database)  # tells everybody
    assert set(await platform.send()) == set(agents)
    await platform.report(first, agents[0], "downloading", "failed", reason="disk full")
    killed += await step_through_kills(platform, fresh_database)  # rolls back
    assert (await platform.find(first)).state == "rolling_back"
    killed += await step_through_kills(platform, fresh_database)  # tells everybody to go back
    assert set((await revisions(platform)).values()) == {2}
    await platform.send()
    for agent in agents:
        await platform.heartbeat(agent)
    killed += await step_through_kills(platform, fresh_database)  # is over
    assert (await platform.find(first)).state == "rolled_back"

    second = await platform.start(await platform.release(), fleet, strategy=stop)
    await platform.controller().step()
    await platform.send()
    await platform.report(second, agents[0], "downloading", "failed", reason="disk full")
    killed += await step_through_kills(platform, fresh_database)  # pauses
    assert (await platform.find(second)).state == "paused"
    how = {"reason": "enough", "by": OPERATOR, "now": platform.clock.now}
    await platform.do(moving.abort_deployment, second.id, **how)
    killed += await step_through_kills(platform, fresh_database)  # takes it back
    assert set((await revisions(platform)).values()) == {3, 4}
    assert await platform.states(second) == {"failed": 1, "superseded": 2}
    assert killed >= 15
    assert await platform.events("deployment") == [
        "deployment.created",
        "deployment.scheduled",
        "deployment.started",
        "deployment.rolling-back",
        "deployment.rolled-back",
        "deployment.created",
        "deployment.started",
        "deployment.paused",
        "deployment.aborted",
    ]
