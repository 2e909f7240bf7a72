"""A deployment from its start to its end, as controller, agents and operators move it."""

import asyncio

import msgspec
import pytest
import sqlalchemy as sa

from tensorguard.rollouts.errors import IllegalMove
from tensorguard.rollouts.strategy import AT_ONCE
from tensorguard.services.deployments import deployments, desired, moving
from tensorguard.services.deployments.deployments import Plan, Preview
from tensorguard.services.deployments.packages import get_package
from tensorguard.services.deployments.release_errors import NoEligibleAgents, PackageWithdrawn
from tensorguard.services.evidence.event import Actor
from tensorguard.services.fleets.tagging import set_tags
from tensorguard.services.trust.publishers import revoke_publisher
from tensorguard.store.deployments import Deployment, list_deployment_agents
from tests.integration.deployments.builders import OPERATOR, Platform, target

ALL_STEPS = ("notified", "downloading", "verifying", "activating", "succeeded")


async def test_a_release_reaches_every_agent_and_the_deployment_completes(
    platform: Platform,
) -> None:
    fleet = await platform.add_fleet("hospital-a")
    agents = [await platform.add_agent(fleet, tags={"gpu": "true"}) for _ in range(5)]
    release = await platform.release()
    deployment = await platform.start(release, fleet)
    controller = platform.controller(batch_agents=2)
    await controller.step()
    documents = await platform.send()
    await controller.step()

    assert set(documents) == set(agents)
    assert await platform.states(deployment) == {"notified": 5}
    for agent_id, document in documents.items():
        assert document.package is not None
        assert document.package.digest == release.package_digest.hex()
        assert document.release is not None
        assert (document.release.name, document.release.version) == ("model", "1.1.0")
        assert document.tags == {"gpu": "true"}
        assert (document.min_seq, document.allow_downgrade, document.revision) == (1, False, 1)
        await platform.report(deployment, agent_id, *ALL_STEPS)
    assert await platform.states(deployment) == {"activating": 5}
    await controller.step()
    assert (await platform.find(deployment)).state == "running"

    for agent_id in agents:
        await platform.heartbeat(agent_id, runs=release.package_digest)
    assert await platform.states(deployment) == {"succeeded": 5}
    await controller.step()
    found = await platform.find(deployment)
    assert (found.state, found.state_reason) == ("completed", "")
    assert await platform.events("deployment") == [
        "deployment.created",
        "deployment.started",
        "deployment.completed",
    ]


async def test_the_digest_in_a_heartbeat_makes_the_success_whichever_word_comes_last(
    platform: Platform,
) -> None:
    fleet = await platform.add_fleet("f")
    first, second, silent = [await platform.add_agent(fleet) for _ in range(3)]
    release = await platform.release()
    deployment = await platform.start(release, fleet)
    controller = platform.controller()
    await controller.step()
    await platform.send()
    await platform.report(deployment, first, *ALL_STEPS)
    await platform.heartbeat(first, runs=release.package_digest)
    await platform.heartbeat(second, runs=release.package_digest)
    await platform.report(deployment, second, "succeeded")
    await platform.heartbeat(silent, runs=release.package_digest)
    assert await platform.states(deployment) == {"succeeded": 3}


async def test_an_agent_that_runs_something_else_again_has_failed_while_the_deployment_runs(
    platform: Platform,
) -> None:
    fleet = await platform.add_fleet("f")
    agent, other = [await platform.add_agent(fleet) for _ in range(2)]
    release = await platform.release()
    deployment = await platform.start(release, fleet)
    await platform.controller().step()
    await platform.send()
    await platform.heartbeat(agent, runs=release.package_digest)
    await platform.heartbeat(agent, runs=None)
    assert await platform.states(deployment) == {"failed": 1, "pending": 1}
    await platform.heartbeat(other, runs=release.package_digest)
    await platform.controller().step()
    await platform.heartbeat(other, runs=None)
    assert await platform.states(deployment) == {"failed": 1, "succeeded": 1}


async def test_words_that_have_no_place_are_counted_and_change_nothing(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    stranger = await platform.add_agent(await platform.add_fleet("g"))
    deployment = await platform.start(await platform.release(), fleet)
    applied = await platform.report(deployment, agent, "downloading", "rejected", "activating")
    assert (applied.applied, applied.ignored) == (2, 1)
    assert (await platform.report(deployment, stranger, "succeeded")).ignored == 1
    assert await platform.states(deployment) == {"rejected": 1}


async def test_the_reason_of_a_failure_is_kept(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    deployment = await platform.start(await platform.release(), fleet)
    await platform.report(deployment, agent, "downloading")
    await platform.report(deployment, agent, "failed", reason="disk full")
    await platform.report(deployment, agent, "succeeded")
    rows = await platform.do(list_deployment_agents, deployment.id, limit=10)
    assert [(row.state, row.reason) for row in rows] == [("failed", "disk full")]


async def test_a_preview_says_what_starts_and_who_is_left_out_and_why(platform: Platform) -> None:
    fleet, outside = await platform.add_fleet("in"), await platform.add_fleet("out")
    eligible = await platform.add_agent(fleet, tags={"gpu": "true"})
    await platform.add_agent(fleet, tags={"gpu": "true", "legacy": ""})
    await platform.add_agent(fleet, tags={})
    await platform.add_agent(outside, tags={"gpu": "true"})
    revoked = await platform.add_agent(fleet, tags={"gpu": "true"})
    await platform.set_status(revoked, "revoked")
    release = await platform.release(target=target(fleets=("in",), selector="!legacy"))
    draft = await platform.draft(release, fleet, outside, selector="gpu=true")
    plan = Plan(
        release_id=release.id,
        fleets=(fleet, outside),
        selector="gpu=true",
        strategy=AT_ONCE,
        salt=draft.salt,
    )
    preview = await platform.do(deployments.preview_draft, draft)
    now = platform.clock.now
    assert await platform.do(deployments.preview_deployment, plan, now=now) == preview
    assert isinstance(preview, Preview)
    assert preview.stages == [1]
    assert {(group.state, group.reason): group.agents for group in preview.groups} == {
        ("pending", ""): 1,
        ("excluded", "target-selector"): 1,
        ("excluded", "target-fleet"): 1,
    }
    assert [group.sample for group in preview.groups if group.state == "pending"] == [[eligible]]
    await platform.do(moving.start_deployment, draft.id, by=OPERATOR, now=platform.clock.now)
    assert await platform.states(draft) == {"pending": 1, "excluded": 2}


async def test_a_deployment_for_nobody_does_not_start(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    await platform.add_agent(fleet, tags={})
    draft = await platform.draft(await platform.release(), fleet, selector="gpu")
    with pytest.raises(NoEligibleAgents):
        await platform.do(moving.start_deployment, draft.id, by=OPERATOR, now=platform.clock.now)
    assert (await platform.find(draft)).state == "draft"


async def test_what_a_revoked_publisher_signed_is_not_deployed(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    await platform.add_agent(fleet)
    release = await platform.release()
    draft = await platform.draft(release, fleet)
    kid = (await platform.do(get_package, release.package_digest)).publisher_kid
    await platform.do(revoke_publisher, kid, reason="stolen", by=OPERATOR, now=platform.clock.now)
    with pytest.raises(PackageWithdrawn):
        await platform.do(moving.start_deployment, draft.id, by=OPERATOR, now=platform.clock.now)


async def test_an_agent_that_enrols_or_gets_a_matching_tag_while_it_runs_gets_the_release_too(
    platform: Platform,
) -> None:
    fleet, tags = await platform.add_fleet("f"), {"gpu": "true"}
    await platform.add_agent(fleet, tags=tags)
    tagged = await platform.add_agent(fleet)
    deployment = await platform.start(await platform.release(), fleet, selector="gpu=true")
    controller = platform.controller()
    await controller.step()
    joiner = await platform.add_agent(fleet, tags=tags)
    agreed = Actor("agent", str(tagged))
    await platform.do(set_tags, tagged, tags, by=agreed, now=platform.clock.now)
    platform.clock.advance(seconds=5)
    await controller.step()
    documents = await platform.send()
    assert documents[tagged].tags == documents[joiner].tags == tags
    assert sum((await platform.states(deployment)).values()) == 3


async def test_an_agent_that_has_it_by_an_earlier_deployment_is_left_alone(
    platform: Platform,
) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    release = await platform.release()
    await platform.start(release, fleet)
    controller = platform.controller()
    await controller.step()
    await platform.send()
    await platform.heartbeat(agent, runs=release.package_digest)
    again = await platform.start(release, fleet)
    await controller.step()
    assert await platform.states(again) == {"already_installed": 1}
    assert await platform.send() == {}
    assert (await platform.find(again)).state == "completed"


async def test_the_newer_of_two_deployments_wins(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    old = await platform.start(await platform.release(), fleet)
    controller = platform.controller()
    await controller.step()
    await platform.send()
    platform.clock.advance(seconds=1)
    release = await platform.release()
    new = await platform.start(release, fleet)
    await controller.step()
    documents = await platform.send()
    assert documents[agent].deployment_id == new.id
    assert documents[agent].revision == 2
    assert await platform.states(old) == {"superseded": 1}
    await platform.heartbeat(agent, runs=release.package_digest)
    await controller.step()
    assert (await platform.find(old)).state == "completed"
    assert (await platform.find(new)).state == "completed"


async def test_an_older_deployment_never_takes_an_agent_back(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet, tags={"x": "1"})
    other = await platform.add_agent(fleet)
    old = await platform.start(await platform.release(), fleet, selector="!x")
    controller = platform.controller()
    await controller.step()
    platform.clock.advance(seconds=1)
    new = await platform.start(await platform.release(), fleet, selector="x=1")
    await controller.step()
    async with platform.sessions.begin() as session:
        await session.execute(
            sa.text("UPDATE agents SET tags = '{}' WHERE id = :id"), {"id": agent}
        )
    platform.clock.advance(seconds=10)
    await controller.step()
    documents = await platform.send()
    assert documents[agent].deployment_id == new.id
    assert documents[other].deployment_id == old.id
    assert (await platform.states(old))["superseded"] == 1


async def test_agents_that_fall_silent_are_lost_and_come_back_by_their_own_word(
    platform: Platform,
) -> None:
    fleet = await platform.add_fleet("f")
    agent, other = [await platform.add_agent(fleet) for _ in range(2)]
    release = await platform.release()
    deployment = await platform.start(release, fleet)
    controller = platform.controller()
    await controller.step()
    await platform.send()
    await platform.report(deployment, agent, "downloading")
    await platform.report(deployment, other, "downloading")
    platform.clock.advance(seconds=119)
    await platform.heartbeat(other)
    await controller.step()
    assert await platform.states(deployment) == {"downloading": 2}
    platform.clock.advance(seconds=2)
    await controller.step()
    assert await platform.states(deployment) == {"downloading": 1, "lost": 1}
    await platform.report(deployment, agent, "activating")
    assert await platform.states(deployment) == {"downloading": 1, "activating": 1}


async def test_a_hub_that_has_just_started_gives_nobody_up(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    await platform.add_agent(fleet)
    deployment = await platform.start(await platform.release(), fleet)
    await platform.controller().step()
    await platform.send()
    await platform.controller().step()
    platform.clock.advance(minutes=20)  # nobody has read heartbeats
    fresh = platform.controller()
    await fresh.step()
    assert await platform.states(deployment) == {"notified": 1}
    platform.clock.advance(seconds=121)
    await fresh.step()
    assert await platform.states(deployment) == {"lost": 1}


async def test_an_agent_that_needs_too_long_has_timed_out(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    release = await platform.release()
    deployment = await platform.start(release, fleet)
    controller = platform.controller()
    await controller.step()
    await platform.report(deployment, agent, "downloading")
    platform.clock.advance(minutes=31)
    await platform.heartbeat(agent)
    await controller.step()
    found = await platform.find(deployment)
    assert await platform.states(deployment) == {"timed_out": 1}
    assert found.state == "completed"
    await platform.heartbeat(agent, runs=release.package_digest)
    assert await platform.states(deployment) == {"succeeded": 1}


async def test_agents_that_stay_away_do_not_hold_it_up_and_get_it_when_they_return(
    platform: Platform,
) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    away = await platform.add_agent(fleet, presence="offline")
    release = await platform.release()
    deployment = await platform.start(release, fleet)
    controller = platform.controller()
    await controller.step()
    await platform.send()
    await platform.heartbeat(agent, runs=release.package_digest)
    await controller.step()
    assert (await platform.find(deployment)).state == "running"
    platform.clock.advance(minutes=3)
    await controller.step()
    found = await platform.find(deployment)
    assert found.state == "completed"
    assert found.state_reason.startswith("1 agents were offline")
    async with platform.sessions.begin() as session:
        stored = await desired.documents_for(
            session, platform.keyring, [away], now=platform.clock.now
        )
    assert platform.open(away, stored[away]).deployment_id == deployment.id
    await platform.heartbeat(away, runs=release.package_digest)
    assert await platform.states(deployment) == {"succeeded": 2}


async def test_an_agent_that_is_revoked_leaves_the_deployment(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    before, during = [await platform.add_agent(fleet) for _ in range(2)]
    deployment = await platform.start(await platform.release(), fleet)
    await platform.set_status(before, "revoked")
    controller = platform.controller()
    await controller.step()
    assert set(await platform.send()) == {during}
    await platform.set_status(during, "revoked")
    await controller.step()
    assert await platform.states(deployment) == {"excluded": 2}


async def test_an_abort_takes_back_what_nobody_has_acted_on(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    idle, busy = [await platform.add_agent(fleet) for _ in range(2)]
    first = await platform.release()
    await platform.start(first, fleet)
    controller = platform.controller(batch_agents=1)
    await controller.step()
    await platform.send()
    for agent in (idle, busy):
        await platform.heartbeat(agent, runs=first.package_digest)
    platform.clock.advance(seconds=1)
    deployment = await platform.start(await platform.release(), fleet)
    await controller.step()
    await platform.send()
    await platform.report(deployment, busy, "downloading")
    await platform.do(
        moving.abort_deployment,
        deployment.id,
        reason="wrong model",
        by=OPERATOR,
        now=platform.clock.now,
    )
    await controller.step()
    documents = await platform.send()
    assert set(documents) == {idle}
    assert documents[idle].package is not None
    assert documents[idle].package.digest == first.package_digest.hex()
    assert (documents[idle].deployment_id, documents[idle].revision) == (None, 3)
    assert documents[idle].allow_downgrade
    assert await platform.states(deployment) == {"superseded": 1, "downloading": 1}
    found = await platform.find(deployment)
    assert (found.state, found.state_reason) == ("aborted", "wrong model")
    assert found.finished_at is not None


async def test_an_agent_that_had_nothing_is_told_to_keep_what_runs(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    deployment = await platform.start(await platform.release(), fleet)
    controller = platform.controller()
    await controller.step()
    first = await platform.send()
    await platform.do(
        moving.abort_deployment, deployment.id, reason="", by=OPERATOR, now=platform.clock.now
    )
    await controller.step()
    second = await platform.send()
    assert (second[agent].package, second[agent].release) == (None, None)
    assert second[agent].revision > first[agent].revision


async def test_a_paused_deployment_begins_with_nobody_new(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    deployment = await platform.start(await platform.release(), fleet)
    how = {"by": OPERATOR, "now": platform.clock.now, "reason": "lunch"}
    await platform.do(moving.pause_deployment, deployment.id, **how)
    await platform.controller().step()
    assert await platform.send() == {}
    with pytest.raises(IllegalMove):
        await platform.do(
            moving.start_deployment, deployment.id, by=OPERATOR, now=platform.clock.now
        )
    await platform.do(moving.resume_deployment, deployment.id, **how)
    await platform.controller().step()
    assert set(await platform.send()) == {agent}


async def test_two_controllers_at_once_do_every_step_once(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agents = [await platform.add_agent(fleet) for _ in range(12)]
    release = await platform.release()
    deployment = await platform.start(release, fleet)
    controllers = [platform.controller(batch_agents=3) for _ in range(3)]
    for _ in range(3):
        await asyncio.gather(*(controller.step() for controller in controllers))
    documents = await platform.send()
    assert set(documents) == set(agents)
    assert {document.revision for document in documents.values()} == {1}
    for agent in agents:
        await platform.heartbeat(agent, runs=release.package_digest)
    await asyncio.gather(*(controller.step() for controller in controllers))
    await controllers[0].step()
    assert (await platform.find(deployment)).state == "completed"
    assert await platform.events("deployment.completed") == ["deployment.completed"]


async def test_a_document_stays_the_same_bytes_until_shortly_before_it_expires(
    platform: Platform,
) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    await platform.start(
        await platform.release(),
        fleet,
        strategy=msgspec.structs.replace(AT_ONCE, allow_downgrade=True),
    )
    await platform.controller().step()

    async def document() -> bytes:
        async with platform.sessions.begin() as session:
            found = await desired.documents_for(
                session, platform.keyring, [agent], now=platform.clock.now
            )
        return found[agent]

    first = await document()
    platform.clock.advance(hours=23, minutes=54)
    assert await document() == first
    before = platform.open(agent, first)
    platform.clock.advance(minutes=2)
    second = await document()
    after = platform.open(agent, second)
    assert second != first
    assert (after.revision, after.epoch) == (before.revision, before.epoch)
    assert before.package is not None
    assert after.package is not None
    assert after.package.url != before.package.url
    assert after.allow_downgrade
    assert await document() == second


async def test_an_agent_that_is_revoked_gets_no_document(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    agent = await platform.add_agent(fleet)
    await platform.start(await platform.release(), fleet)
    await platform.controller().step()
    await platform.set_status(agent, "revoked")
    assert (
        await platform.do(desired.documents_for, platform.keyring, [agent], now=platform.clock.now)
        == {}
    )


async def test_a_deployment_that_cannot_be_moved_does_not_stop_the_others(
    platform: Platform,
) -> None:
    fleet, other = await platform.add_fleet("f"), await platform.add_fleet("g")
    await platform.add_agent(fleet)
    agent = await platform.add_agent(other)
    broken = await platform.start(await platform.release(), fleet)
    await platform.start(await platform.release(), other)
    async with platform.sessions.begin() as session:
        await session.execute(
            sa.text("UPDATE deployments SET strategy = '{\"stages\": 7}' WHERE id = :id"),
            {"id": broken.id},
        )
    await platform.controller().step()
    assert set(await platform.send()) == {agent}


async def test_whoever_watches_is_told_of_each_move_and_of_agents_progress(
    platform: Platform,
) -> None:
    fleet = await platform.add_fleet("hospital-a")
    agent_id = await platform.add_agent(fleet)
    release = await platform.release()
    deployment = await platform.start(release, fleet)
    controller = platform.controller()
    told = sa.text(
        "WITH told AS (DELETE FROM stream_events WHERE subject_id = :id RETURNING kind)"
        " SELECT count(*) FROM told WHERE kind = 'deployment'"
    )

    async def count(of: Deployment = deployment) -> int:
        async with platform.sessions.begin() as session:
            return int((await session.execute(told, {"id": str(of.id)})).scalar_one())

    assert await count() == 2  # created, started
    await controller.step()
    assert await count() == 1
    await controller.step()
    assert await count() == 0
    await platform.send()
    applied = await platform.report(deployment, agent_id, "notified", "downloading")
    assert applied.deployments == {deployment.id}
    assert (await platform.report(deployment, agent_id, "pending")).deployments == frozenset()
    await platform.heartbeat(agent_id, runs=release.package_digest)
    await controller.step()
    assert await count() >= 1  # it has completed
    unwanted = await platform.draft(release, fleet)
    await platform.do(
        moving.abort_deployment, unwanted.id, reason="", by=OPERATOR, now=platform.clock.now
    )
    assert await count(unwanted) == 2  # created, aborted
    await controller.step()
    assert await count(unwanted) == 1  # it is over
    await controller.step()
    assert await count(unwanted) == 0
