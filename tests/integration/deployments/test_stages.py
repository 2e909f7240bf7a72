"""Deployments in stages: what lets the next one begin, what stops it, and who is in which."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tensorguard.rollouts.errors import IllegalMove, StageTooSmall
from tensorguard.rollouts.stages import assign_stages
from tensorguard.rollouts.strategy import Strategy, parse_strategy
from tensorguard.services.deployments import deployments, moving, releases
from tensorguard.services.deployments.outlook import look
from tensorguard.services.deployments.release_errors import NothingToRetry
from tensorguard.store import tables
from tensorguard.store.deployments import Deployment, list_deployment_agents, list_stages
from tensorguard.store.packages import Release
from tests.integration.deployments.builders import OPERATOR, Platform

FAILING = {"min_reported": 2, "max_failure": 0.1, "soak_s": 0}


def staged(*percents: int, gate: dict[str, Any] | None = None, **settings: Any) -> Strategy:
    """Stages of these percentages, all but the last with this gate."""
    stages: list[dict[str, Any]] = [{"percent": one, "gate": gate or {}} for one in percents[:-1]]
    return parse_strategy({"stages": [*stages, {"percent": percents[-1]}]} | settings)


async def told(platform: Platform) -> list[UUID]:
    """Let the controller and the outbox work; return who was told now."""
    controller = platform.controller()
    await controller.step()
    documents = await platform.send()
    await controller.step()
    return sorted(documents)


async def succeed(platform: Platform, agents: Sequence[UUID], release: Release) -> None:
    for agent in agents:
        await platform.heartbeat(agent, runs=release.package_digest)


async def begun(
    platform: Platform, count: int, strategy: Strategy, **settings: Any
) -> tuple[Deployment, Release, list[UUID]]:
    fleet = await platform.add_fleet("f")
    agents = [await platform.add_agent(fleet) for _ in range(count)]
    release = await platform.release()
    deployment = await platform.start(release, fleet, strategy=strategy, **settings)
    return deployment, release, agents


async def test_a_canary_is_exact_soaks_and_then_everybody_follows(platform: Platform) -> None:
    deployment, release, agents = await begun(platform, 13, Strategy())
    draft = await platform.do(deployments.preview_draft, deployment)
    assert draft.stages == [2, 11]
    canary = await told(platform)
    assert canary == sorted(draft.planned[0].sample)
    await succeed(platform, canary, release)
    controller = platform.controller()
    await controller.step()
    (first, second) = await platform.do(list_stages, deployment.id)
    assert (first.held_since, second.started_at) == (platform.clock.now, None)
    platform.clock.advance(seconds=299)
    await succeed(platform, canary, release)
    await controller.step()
    outlook = await platform.do(look, deployment, now=platform.clock.now)
    assert outlook.gate is not None
    assert (outlook.gate.verdict, outlook.gate.min_reported) == ("holding", 2)
    assert outlook.gate.passes_at == platform.clock.now + timedelta(seconds=1)
    platform.clock.advance(seconds=1)
    await controller.step()
    rest = await told(platform)
    assert sorted(canary + rest) == sorted(agents)
    await succeed(platform, rest, release)
    await controller.step()
    found = await platform.find(deployment)
    assert (found.state, found.stage) == ("completed", 1)
    (first, second) = await platform.do(list_stages, deployment.id)
    assert first.gate is not None
    assert (first.gate["verdict"], first.gate["success"]) == ("passed", 1.0)
    events = await platform.events("deployment.advanced", "deployment.completed")
    assert events == ["deployment.advanced", "deployment.completed"]


async def test_a_fleet_of_one_is_its_own_canary(platform: Platform) -> None:
    deployment, release, (agent,) = await begun(platform, 1, Strategy())
    assert await told(platform) == [agent]
    await succeed(platform, [agent], release)
    controller = platform.controller()
    await controller.step()
    platform.clock.advance(minutes=5)
    await succeed(platform, [agent], release)
    for _ in range(2):
        await controller.step()
    assert (await platform.find(deployment)).state == "completed"


async def test_a_version_that_fails_stops_at_the_canary_and_says_why(platform: Platform) -> None:
    strategy = staged(50, 100, gate=FAILING)
    deployment, release, _ = await begun(platform, 8, strategy)
    canary = await told(platform)
    assert len(canary) == 4
    await platform.report(deployment, canary[0], "downloading", "failed", reason="out of memory")
    await platform.controller().step()
    assert (await platform.find(deployment)).state == "running"
    await succeed(platform, canary[1:2], release)
    await platform.controller().step()
    found = await platform.find(deployment)
    assert found.state == "paused"
    assert found.state_reason == "stage 1: 1 of 2 agents (50.0%) failed, 10.0% may"
    assert await told(platform) == []
    platform.clock.advance(seconds=30)
    assert (await platform.do(list_stages, deployment.id))[0].gate["verdict"] == "failed"
    # Whoever had begun goes on, and is still seen.
    await platform.report(deployment, canary[2], "downloading")
    controller = platform.controller()
    platform.clock.advance(minutes=31)
    await platform.heartbeat(canary[2])
    await controller.step()
    states = await platform.states(deployment)
    assert (states["timed_out"], states["lost"]) == (1, 1)


async def test_agents_that_go_dark_after_their_success_stop_it_too(platform: Platform) -> None:
    deployment, release, _ = await begun(platform, 10, staged(50, 100))
    canary = await told(platform)
    await succeed(platform, canary, release)
    controller = platform.controller()
    await controller.step()
    platform.clock.advance(minutes=2, seconds=1)
    await succeed(platform, canary[2:], release)
    await controller.step()
    found = await platform.find(deployment)
    assert found.state == "paused"
    assert "2 of 5 agents (40.0%) failed" in found.state_reason
    rows = await platform.do(list_deployment_agents, deployment.id, states=["failed"], limit=9)
    assert [row.reason for row in rows] == ["lost", "lost"]
    await succeed(platform, canary[:2], release)  # they come back: it was the network
    assert (await platform.states(deployment))["succeeded"] == 5


async def test_agents_that_are_offline_neither_count_nor_hold_it_up(platform: Platform) -> None:
    deployment, _, _ = await begun(platform, 10, staged(100, gate=None))
    strategy = staged(50, 100, gate={"min_reported": 2, "soak_s": 0})
    assert deployment.state == "running"
    fleet = await platform.add_fleet("g")
    agents = [await platform.add_agent(fleet) for _ in range(10)]
    second = await platform.start(await platform.release(), fleet, strategy=strategy)
    preview = await platform.do(deployments.preview_draft, second)
    canary = preview.planned[0].sample
    for agent in canary[:3]:
        await platform.set_presence(agent, "offline")
    assert sorted(set(await told(platform)) & set(agents)) == sorted(canary[3:])
    await succeed(platform, canary[3:], await platform.do(releases.get_release, second.release_id))
    await platform.controller().step()
    assert (await platform.find(second)).stage == 1
    await platform.set_presence(canary[0], "online")
    assert canary[0] in await platform.send()


async def test_what_nothing_can_change_any_more_pauses_and_never_advances(
    platform: Platform,
) -> None:
    strategy = staged(50, 100, gate={"min_reported": 3, "soak_s": 0})
    deployment, _, _ = await begun(platform, 6, strategy)
    canary = await told(platform)
    for agent in canary:
        await platform.report(deployment, agent, "verifying", "rejected", reason="wrong target")
    await platform.controller().step()
    found = await platform.find(deployment)
    assert (found.state, found.stage) == ("paused", 0)
    expected = "stage 1: 0 agents have reported, 3 have to, and no more will come"
    assert found.state_reason == expected
    how = {"by": OPERATOR, "now": platform.clock.now, "reason": "checked by hand"}
    moved = await platform.do(moving.advance_deployment, deployment.id, **how)
    assert (moved.state, moved.stage) == ("running", 1)
    with pytest.raises(IllegalMove):
        await platform.do(moving.advance_deployment, deployment.id, **how)


async def test_failed_agents_are_tried_again_as_often_as_the_strategy_lets(
    platform: Platform,
) -> None:
    strategy = staged(100, timeouts={"retries": 1})
    deployment, _, (agent, other, _) = await begun(platform, 3, strategy)
    await told(platform)
    await platform.report(deployment, agent, "downloading", "failed", reason="disk full")
    await platform.report(deployment, other, "verifying", "rejected", reason="wrong target")
    how = {"by": OPERATOR, "now": platform.clock.now, "reason": "made room"}
    assert await platform.do(moving.retry_failed, deployment.id, **how) == 1
    assert await told(platform) == [agent]
    await platform.report(deployment, agent, "downloading", "failed", reason="disk full")
    with pytest.raises(NothingToRetry):
        await platform.do(moving.retry_failed, deployment.id, **how)
    assert await platform.events("deployment.retried") == ["deployment.retried"]


async def test_a_ramp_lets_only_so_many_begin_and_more_after_successes(
    platform: Platform,
) -> None:
    ramp = {"initial_per_minute": 6, "factor": 2, "max_per_minute": 60}
    _, release, _ = await begun(platform, 20, staged(100, ramp=ramp))
    counts, everybody = [], []
    for _ in range(6):
        now_told = await told(platform)
        counts.append(len(now_told))
        everybody += now_told
        platform.clock.advance(seconds=10)
    assert counts == [1] * 6
    await succeed(platform, everybody, release)
    assert len(await told(platform)) == 2


async def test_a_window_lets_agents_begin_by_their_own_clock(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    zones = ["Asia/Tokyo", "America/New_York", None]
    agents = [await platform.add_agent(fleet) for _ in zones]
    async with platform.sessions.begin() as session:
        for agent, zone in zip(agents, zones, strict=True):
            facts = {} if zone is None else {"timezone": zone}
            table = tables.agents
            await session.execute(sa.update(table).where(table.c.id == agent).values(facts=facts))
    window = {"start": "20:00", "duration_s": 7200, "timezone": "agent"}  # now it is 12:00 UTC
    strategy = staged(100, window=window)
    deployment = await platform.start(await platform.release(), fleet, strategy=strategy)
    assert await told(platform) == [agents[0]]
    platform.clock.advance(hours=8)
    assert await told(platform) == [agents[2]]
    platform.clock.advance(hours=3)
    outlook = await platform.do(look, await platform.find(deployment), now=platform.clock.now)
    assert outlook.window_opens_at == platform.clock.now + timedelta(hours=2)
    platform.clock.advance(hours=2)
    assert await told(platform) == [agents[1]]


async def test_every_value_of_a_tag_has_somebody_in_the_canary(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    strata = {}
    for number in range(20):
        region = {0: "rare", 1: "other"}.get(number, "usual")
        strata[await platform.add_agent(fleet, tags={"region": region})] = region
    release = await platform.release()
    strategy = staged(15, 100, stratify="region")
    draft = await platform.draft(release, fleet, strategy=strategy)
    preview = await platform.do(deployments.preview_draft, draft)
    assert preview.stages == [3, 17]
    await platform.do(moving.start_deployment, draft.id, by=OPERATOR, now=platform.clock.now)
    row, agent = tables.deployment_agents.c, tables.agents.c
    regions = sa.select(agent.tags["region"].astext).join(
        tables.deployment_agents, row.agent_id == agent.id
    )
    async with platform.sessions() as session:
        found = await session.execute(regions.where(row.stage == 0))
        places = (await session.execute(sa.select(row.agent_id, row.stage))).all()
    assert sorted(found.scalars()) == ["other", "rare", "usual"]
    by_rules = assign_stages(draft.salt, strata, [15, 100], strata=strata)
    assert dict(map(tuple, places)) == by_rules.places
    narrow = await platform.draft(release, fleet, strategy=staged(10, 100, stratify="region"))
    with pytest.raises(StageTooSmall):
        await platform.do(deployments.preview_draft, narrow)


async def test_a_release_that_is_withdrawn_or_expires_stops_before_anybody_else_gets_it(
    platform: Platform,
) -> None:
    fleet = await platform.add_fleet("f")
    await platform.add_agent(fleet)
    end = int((platform.clock.now + timedelta(hours=1)).timestamp())
    expiring, withdrawn = await platform.release(not_after=end), await platform.release()
    first = await platform.start(expiring, fleet)
    platform.clock.advance(hours=1)
    second = await platform.start(withdrawn, fleet)
    how = {"by": OPERATOR, "now": platform.clock.now, "reason": "leaks"}
    await platform.do(releases.withdraw_release, withdrawn.id, **how)
    assert await told(platform) == []
    assert "expired" in (await platform.find(first)).state_reason
    assert "withdrawn" in (await platform.find(second)).state_reason


async def test_who_is_not_selected_any_more_is_let_go_before_its_turn(platform: Platform) -> None:
    strategy = staged(50, 100)
    deployment, _, agents = await begun(platform, 4, strategy)
    canary = await told(platform)
    waiting = next(agent for agent in agents if agent not in canary)
    await platform.do(_quarantine, waiting)
    platform.clock.advance(seconds=5)
    await platform.controller().step()
    rows = await platform.do(list_deployment_agents, deployment.id, states=["excluded"], limit=9)
    assert [(row.agent_id, row.reason) for row in rows] == [(waiting, "quarantined")]


async def _quarantine(session: Any, agent: UUID) -> None:
    table = tables.agent_status
    await session.execute(sa.update(table).where(table.c.agent_id == agent).values(trust_score=10))


async def test_a_deployment_begins_at_its_time(platform: Platform) -> None:
    at = platform.clock.now + timedelta(hours=2)
    deployment, _, agents = await begun(platform, 1, staged(100), start_at=at)
    assert deployment.state == "scheduled"
    assert await told(platform) == []
    platform.clock.advance(hours=2)
    await platform.controller().step()
    assert await told(platform) == agents
    assert await platform.events("deployment.scheduled", "deployment.started") == [
        "deployment.scheduled",
        "deployment.started",
    ]


async def test_what_cannot_start_at_its_time_says_why_and_starts_when_it_can(
    platform: Platform,
) -> None:
    fleet = await platform.add_fleet("f")
    at = platform.clock.now + timedelta(hours=2)
    deployment = await platform.start(await platform.release(), fleet, start_at=at)
    controller = platform.controller()
    await controller.step()
    assert (
        await platform.do(look, deployment, now=at)
    ).waits_for == f"it starts at {at.isoformat()}"
    platform.clock.advance(hours=2)
    for _ in range(2):
        await controller.step()
    waiting = await platform.find(deployment)
    assert (waiting.state, waiting.revision) == ("scheduled", deployment.revision + 1)
    outlook = await platform.do(look, waiting, now=at)
    assert outlook.waits_for.startswith("no agent of these fleets")
    agent = await platform.add_agent(fleet)
    await controller.step()
    assert await told(platform) == [agent]
    started = await platform.find(deployment)
    assert (started.state, started.state_reason) == ("running", "")


async def test_a_clock_that_jumps_makes_nobody_lost(platform: Platform) -> None:
    deployment, _, (agent,) = await begun(platform, 1, staged(100))
    await told(platform)
    await platform.report(deployment, agent, "downloading")
    seconds = [0.0]
    controller = platform.controller(monotonic=lambda: seconds[0])
    await controller.step()
    platform.clock.advance(hours=3)
    seconds[0] += 1
    await controller.step()
    assert await platform.states(deployment) == {"downloading": 1}
    platform.clock.advance(minutes=3)
    seconds[0] += 180
    await controller.step()
    assert await platform.states(deployment) == {"lost": 1}


METRICS = [
    {"metric": "cpu_percent", "max_change": 0.2},
    {"metric": "metrics.latency_ms", "max_difference": 5},
    {"metric": "trust", "max_difference": 10},
]


@pytest.mark.parametrize(
    ("canary", "state", "says"),
    [
        ({}, "running", ""),
        ({"cpu": 56.0}, "paused", "cpu_percent is 56 against 40"),
        ({"latency": 30.0}, "paused", "metrics.latency_ms is 30 against 20"),
        ({"latency": None}, "paused", "metrics.latency_ms says nothing"),
        ({"trust": 60}, "paused", "trust is 60 against 100"),
    ],
)
async def test_a_version_that_costs_too_much_is_stopped_and_missing_figures_pause(
    platform: Platform, canary: dict[str, Any], state: str, says: str
) -> None:
    found = await soaked(platform, 8, [canary] * 4)
    assert (found.state, found.stage) == (state, 1 if state == "running" else 0)
    assert says in found.state_reason


async def test_one_agent_with_a_broken_sensor_decides_nothing(platform: Platform) -> None:
    usual = {"cpu": 46.0, "latency": 24.0}
    broken = [{"cpu": 100.0, "latency": 1e9}, {"cpu": 46.0, "latency": 1.7e308}]
    found = await soaked(platform, 42, [*broken, *[usual] * 19])
    assert (found.state, found.stage) == ("running", 1)


async def soaked(platform: Platform, count: int, canary: list[dict[str, Any]]) -> Deployment:
    """Half of the agents get a release; return the deployment after the soak.

    `canary` says in which figures each of them is another than the rest.
    """
    platform.clock.now = datetime.now(UTC)  # heartbeats have partitions for the present only
    strategy = staged(50, 100, gate={"soak_s": 60, "metrics": METRICS})
    deployment, release, agents = await begun(platform, count, strategy)
    told_of_it = await told(platform)
    await succeed(platform, told_of_it, release)
    controller = platform.controller()
    await controller.step()
    platform.clock.advance(seconds=30)
    others = dict(zip(told_of_it, canary, strict=True))
    await platform.do(
        _send_figures, {agent: others.get(agent, {}) for agent in agents}, platform.clock.now
    )
    await controller.step()
    platform.clock.advance(seconds=31)
    await succeed(platform, told_of_it, release)
    await controller.step()
    return await platform.find(deployment)


async def _send_figures(session: Any, figures: dict[UUID, dict[str, Any]], at: Any) -> None:
    status = tables.agent_status
    for agent, said in figures.items():
        one = {"cpu": 40.0, "latency": 20.0, "trust": 100} | said
        metrics = {} if one["latency"] is None else {"latency_ms": one["latency"]}
        for seq in range(2):
            await session.execute(
                sa.insert(tables.heartbeats).values(
                    agent_id=agent,
                    received_at=at + timedelta(seconds=seq),
                    sent_at=at,
                    boot_count=1,
                    seq=seq,
                    status="ok",
                    cpu_percent=one["cpu"],
                    memory_percent=10,
                    disk_percent=10,
                    metrics=metrics,
                )
            )
        await session.execute(
            sa.update(status).where(status.c.agent_id == agent).values(trust_score=one["trust"])
        )
