"""A publisher's life: when its word counts, for which names, and what ends with it."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tensorguard.services.deployments import moving
from tensorguard.services.deployments.release_errors import (
    BadPublisher,
    PackageWithdrawn,
    PublisherExists,
    PublisherIsRevoked,
    PublisherNotInForce,
    PublisherUnpublished,
)
from tensorguard.services.trust import publishers
from tensorguard.services.trust.publisher_overview import (
    PublisherOverview,
    get_publisher_overview,
)
from tensorguard.services.trust.publishers import Succession
from tensorguard.store.deployments import Deployment
from tensorguard.tgsp import errors as tgsp
from tensorguard.tgsp.keys import compute_kid
from tests.integration.deployments.builders import OPERATOR, Platform

DAY = timedelta(days=1)


def kid_of(key: Ed25519PrivateKey) -> str:
    return compute_kid(key.public_key()).hex()


async def revoke(platform: Platform) -> None:
    await platform.do(
        publishers.revoke_publisher,
        kid_of(platform.publisher),
        reason="key stolen",
        by=OPERATOR,
        now=platform.clock.now,
    )


async def change(platform: Platform, **terms: Any) -> None:
    await platform.do(
        publishers.change_publisher,
        kid_of(platform.publisher),
        **terms,
        reason="as agreed",
        by=OPERATOR,
        now=platform.clock.now,
    )


async def overview(platform: Platform, kid: str) -> PublisherOverview:
    found = await platform.do(get_publisher_overview, kid, now=platform.clock.now)
    assert isinstance(found, PublisherOverview)
    return found


async def resume(platform: Platform, deployment: Deployment) -> Deployment:
    found = await platform.do(
        moving.resume_deployment,
        deployment.id,
        reason="go on",
        by=OPERATOR,
        now=platform.clock.now,
    )
    assert isinstance(found, Deployment)
    return found


async def running(platform: Platform) -> Deployment:
    fleet = await platform.add_fleet("f")
    await platform.add_agent(fleet)
    return await platform.start(await platform.release(), fleet)


async def test_a_successor_is_believed_beside_the_other_and_then_alone(platform: Platform) -> None:
    old, new = platform.publisher, Ed25519PrivateKey.generate()
    start = platform.clock.now
    kid = await platform.register_publisher(
        new,
        not_before=start + DAY,
        not_after=start + 900 * DAY,
        succeeds=Succession(kid=kid_of(old), predecessor_ends=start + 10 * DAY),
    )
    by_new = platform.build_package(publisher=new)
    with pytest.raises(tgsp.PublisherNotYetValid):
        await platform.upload(by_new)

    platform.clock.advance(days=2)
    assert (await platform.upload(by_new)).package.publisher_kid == kid
    by_old = await platform.release()
    bundle = (await platform.publish_trust()).bundle
    assert {one.kid for one in bundle.publishers} == {kid, kid_of(old)}

    platform.clock.advance(days=8)
    with pytest.raises(tgsp.PublisherExpired):
        await platform.upload(platform.build_package())
    with pytest.raises(PublisherNotInForce, match="was valid until"):
        await platform.draft(by_old, await platform.add_fleet("f"))
    await platform.upload(platform.build_package(publisher=new))
    bundle = (await platform.publish_trust()).bundle
    assert [one.kid for one in bundle.publishers] == [kid]
    former = await overview(platform, kid_of(old))
    assert (former.state, former.succeeded_by, former.awaits_bundle) == ("expired", kid, False)


@pytest.mark.parametrize(
    ("terms", "ends", "error"),
    [
        ({"not_before": 11 * DAY}, 10 * DAY, BadPublisher),
        ({"not_before": 10 * DAY}, 10 * DAY, BadPublisher),
        ({}, timedelta(minutes=59), BadPublisher),
        ({}, 366 * DAY, BadPublisher),
        ({"not_after": 9 * DAY}, 10 * DAY, BadPublisher),
        ({"not_before": 5 * DAY, "not_after": 5 * DAY}, 10 * DAY, BadPublisher),
    ],
)
async def test_a_successor_leaves_no_gap_and_no_end_before_the_other(
    platform: Platform, terms: dict[str, timedelta], ends: timedelta, error: type[Exception]
) -> None:
    now = platform.clock.now
    given = {"not_after": 900 * DAY} | terms
    with pytest.raises(error):
        await platform.register_publisher(
            Ed25519PrivateKey.generate(),
            **{name: now + term for name, term in given.items()},
            succeeds=Succession(kid=kid_of(platform.publisher), predecessor_ends=now + ends),
        )
    assert (await overview(platform, kid_of(platform.publisher))).succeeded_by is None


async def test_a_publisher_has_one_successor_and_a_revoked_one_none(platform: Platform) -> None:
    succession = Succession(kid=kid_of(platform.publisher))
    terms = {"succeeds": succession, "not_after": platform.clock.now + 900 * DAY}
    await platform.register_publisher(Ed25519PrivateKey.generate(), **terms)
    with pytest.raises(PublisherExists):
        await platform.register_publisher(Ed25519PrivateKey.generate(), **terms)
    await revoke(platform)
    with pytest.raises(PublisherIsRevoked):
        await platform.register_publisher(Ed25519PrivateKey.generate(), **terms)
    with pytest.raises(PublisherIsRevoked):
        await change(platform, names=["model"])


async def test_revoking_pauses_what_runs_in_the_same_breath_and_nothing_resumes_it(
    platform: Platform,
) -> None:
    deployment = await running(platform)
    await revoke(platform)
    found = await platform.find(deployment)
    assert found.state == "paused"
    assert found.state_reason.startswith("publisher 'Model team' (")
    assert found.state_reason.endswith("was revoked: key stolen")
    assert (await platform.events("deployment", "publisher"))[-2:] == [
        "publisher.revoked",
        "deployment.paused",
    ]
    with pytest.raises(PackageWithdrawn, match="key stolen"):
        await resume(platform, deployment)
    await platform.controller().step()
    assert await platform.states(deployment) == {"pending": 1}


async def test_the_controller_pauses_what_outlives_its_publisher_until_that_lasts_longer(
    platform: Platform,
) -> None:
    deployment = await running(platform)
    controller = platform.controller()
    platform.clock.advance(days=365)
    await controller.step()
    found = await platform.find(deployment)
    assert (found.state, "was valid until" in found.state_reason) == ("paused", True)
    assert await platform.states(deployment) == {"pending": 1}
    with pytest.raises(PublisherNotInForce):
        await resume(platform, deployment)

    await change(platform, not_after=platform.clock.now + DAY)
    with pytest.raises(PublisherUnpublished):
        await resume(platform, deployment)
    await platform.publish_trust()
    assert (await resume(platform, deployment)).state == "running"
    await controller.step()
    assert (await platform.find(deployment)).state == "running"


async def test_a_name_that_is_taken_away_pauses_what_runs_under_it_and_nothing_else(
    platform: Platform,
) -> None:
    deployment = await running(platform)
    release = await platform.release(name="voice")
    other = await platform.start(release, "f")
    await change(platform, names=["voice", "face-*"])
    found = await platform.find(deployment)
    assert (found.state, "'model'" in found.state_reason) == ("paused", True)
    assert (await platform.find(other)).state == "running"
    assert (await platform.events("publisher"))[-1] == "publisher.changed"
    with pytest.raises(tgsp.PublisherNotAllowed):
        await platform.upload(platform.build_package())


async def test_nothing_is_handed_out_that_agents_would_not_believe(platform: Platform) -> None:
    key = Ed25519PrivateKey.generate()
    kid = await platform.register_publisher(key, "face-*", publish=False)
    fleet = await platform.add_fleet("f")
    await platform.add_agent(fleet)
    release = await platform.release(name="face-1", publisher=key)
    draft = await platform.draft(release, fleet)
    how = {"by": OPERATOR, "now": platform.clock.now}
    with pytest.raises(PublisherUnpublished, match="trust bundle 2"):
        await platform.do(moving.start_deployment, draft.id, **how)
    waiting = await overview(platform, kid)
    assert (waiting.state, waiting.awaits_bundle, waiting.publisher.told_in) == (
        "valid",
        True,
        None,
    )

    await platform.publish_trust()
    started = await platform.do(moving.start_deployment, draft.id, **how)
    assert started.state == "running"
    known = await overview(platform, kid)
    assert (known.awaits_bundle, known.publisher.told_in, known.packages) == (False, 3, 1)


async def test_each_change_is_told_by_the_bundle_after_it(platform: Platform) -> None:
    kid = kid_of(platform.publisher)
    assert (await overview(platform, kid)).publisher.told_in == 2
    await change(platform, names=["model"])
    assert (await overview(platform, kid)).awaits_bundle
    assert (await platform.publish_trust()).version == 3
    assert (await overview(platform, kid)).publisher.told_in == 3
    await change(platform, names=["model"])  # as it is: nothing to tell, nothing to write
    assert (await overview(platform, kid)).publisher.told_in == 3
    await revoke(platform)
    assert (await overview(platform, kid)).awaits_bundle
    await platform.publish_trust()
    assert (await overview(platform, kid)).publisher.told_in == 4
    assert (await platform.events("publisher.changed")) == ["publisher.changed"]


async def test_who_was_never_named_by_a_bundle_is_revoked_without_one(platform: Platform) -> None:
    key = Ed25519PrivateKey.generate()
    await platform.register_publisher(key, publish=False)
    await platform.do(
        publishers.revoke_publisher,
        kid_of(key),
        reason="a mistake",
        by=OPERATOR,
        now=platform.clock.now,
    )
    found = await overview(platform, kid_of(key))
    assert (found.state, found.awaits_bundle, found.publisher.told_in) == ("revoked", False, 2)
