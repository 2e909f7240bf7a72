"""Key release: who gets a DEK, who does not, and what is written of it."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tensorguard.protocol.envelope import open_signed
from tensorguard.protocol.errors import UnknownSigner
from tensorguard.protocol.messages import Grant, KeyRequest
from tensorguard.services.keys.key_release import KeyRelease
from tensorguard.services.trust import publishers
from tensorguard.store import tables
from tensorguard.store.deployments import Deployment
from tensorguard.store.ids import new_id
from tensorguard.store.packages import Release
from tensorguard.tgsp.grants import open_grant
from tensorguard.tgsp.keys import compute_kid
from tensorguard.tgsp.opener import open_package, unwrap_detached
from tensorguard.tgsp.signing import PublisherKey
from tensorguard.vault.errors import KeyDisabled, Throttled
from tensorguard.vault.provider import WrappedKey
from tests.integration.deployments.builders import OPERATOR, Platform


class Assigned:
    """An agent that holds a desired document, and what it can ask for."""

    def __init__(
        self, platform: Platform, agent_id: UUID, release: Release, deployment: Deployment
    ) -> None:
        self.platform = platform
        self.agent_id = agent_id
        self.release = release
        self.deployment = deployment
        self.key_release = KeyRelease(platform.keyring, platform.kek)

    def request(self, **changes: Any) -> KeyRequest:
        known = {
            "request_id": new_id(),
            "package_digest": self.release.package_digest.hex(),
            "deployment_id": self.deployment.id,
        }
        return KeyRequest(**(known | changes))

    async def ask(self, *requests: KeyRequest) -> list[bytes]:
        answers = await self.platform.do(
            self.key_release_answer,
            [(self.agent_id, request) for request in requests],
        )
        return [envelope for _, envelope in answers]

    async def key_release_answer(self, session: Any, requests: Any) -> Any:
        return await self.key_release.answer(session, requests, now=self.platform.clock.now)

    def open(self, envelope: bytes, kind: str = "grant") -> Grant:
        return open_signed(
            envelope,
            Grant,
            keys=self.platform.keyring.trust.keys_for(kind, self.platform.clock.now),
            trust_domain=self.platform.keyring.trust_domain,
            now=self.platform.clock.now,
            agent_id=self.agent_id,
        )

    async def ask_one(self, **changes: Any) -> Grant:
        (envelope,) = await self.ask(self.request(**changes))
        return self.open(envelope)


@pytest.fixture
async def assigned(platform: Platform) -> Assigned:
    fleet = await platform.add_fleet("f")
    agent_id = await platform.add_agent(fleet)
    end = int((platform.clock.now + timedelta(days=1)).timestamp())
    release = await platform.release(not_after=end)
    deployment = await platform.start(release, fleet)
    await platform.controller().step()
    await platform.send()
    return Assigned(platform, agent_id, release, deployment)


async def test_an_assigned_agent_opens_the_package_with_its_grant(assigned: Assigned) -> None:
    grant = await assigned.ask_one()
    platform = assigned.platform
    key = platform.encryption_keys[assigned.agent_id]
    assert grant.kid == compute_kid(key.public_key()).hex()
    assert grant.exp == int((platform.clock.now + timedelta(minutes=10)).timestamp())
    assert grant.sealed is not None
    assert len(grant.sealed) == 80
    assert grant.denied is None
    opened = open_package(
        next((platform.folder / "packages").glob("??/*.tgsp")),
        platform.folder / "opened",
        publishers=[PublisherKey(platform.publisher.public_key())],
        now=platform.clock.now,
        unwrap=unwrap_detached(grant.sealed, recipient=key, exp=grant.exp, now=platform.clock.now),
        digest=assigned.release.package_digest,
    )
    assert (opened.directory / "model.onnx").stat().st_size == 50_000
    assert await platform.events("grant") == ["grant.issued"]
    with pytest.raises(UnknownSigner):
        assigned.open((await assigned.ask(assigned.request()))[0], kind="desired")


async def test_a_grant_ends_with_the_publisher_at_the_latest(assigned: Assigned) -> None:
    end = assigned.platform.clock.now + timedelta(minutes=3)
    await change_publisher(assigned.platform, not_after=end)
    assert (await assigned.ask_one()).exp == int(end.timestamp())


async def test_a_grant_opens_for_nobody_else_and_nothing_else(assigned: Assigned) -> None:
    platform = assigned.platform
    other = await platform.add_agent("f")
    grant = await assigned.ask_one()
    digest = assigned.release.package_digest
    assert grant.sealed is not None
    assert grant.exp is not None
    mine = platform.encryption_keys[assigned.agent_id]
    assert (
        len(open_grant(grant.sealed, recipient=mine, manifest_digest=digest, exp=grant.exp)) == 32
    )
    for recipient, bound, exp in (
        (platform.encryption_keys[other], digest, grant.exp),
        (mine, bytes(32), grant.exp),
        (mine, digest, grant.exp + 1),
    ):
        with pytest.raises(Exception, match="does not open"):
            open_grant(grant.sealed, recipient=recipient, manifest_digest=bound, exp=exp)


async def test_the_same_request_gets_the_same_bytes_and_one_entry(assigned: Assigned) -> None:
    request = assigned.request()
    (first,) = await assigned.ask(request)
    assert await assigned.ask(request, request) == [first]
    assigned.key_release = KeyRelease(assigned.platform.keyring, assigned.platform.kek)  # a restart
    assert await assigned.ask(request) == [first]
    assert await assigned.platform.events("grant") == ["grant.issued"]


async def test_a_request_that_outlived_its_grant_is_judged_anew(assigned: Assigned) -> None:
    request = assigned.request()
    (first,) = await assigned.ask(request)
    assigned.platform.clock.advance(minutes=10)
    (second,) = await assigned.ask(request)
    assert second != first
    assert assigned.open(second).sealed is not None
    assert await assigned.platform.events("grant") == ["grant.issued", "grant.issued"]


async def test_a_request_id_that_comes_again_for_something_else_is_denied(
    assigned: Assigned,
) -> None:
    request = assigned.request()
    (first,) = await assigned.ask(request)
    (second,) = await assigned.ask(
        assigned.request(request_id=request.request_id, deployment_id=new_id())
    )
    assert assigned.open(second).denied == "request-id-reused"
    assert await assigned.ask(request) == [first]


Change = Callable[[Assigned], Coroutine[Any, Any, None]]


async def revoke(assigned: Assigned) -> None:
    await assigned.platform.set_status(assigned.agent_id, "revoked")


async def quarantine(assigned: Assigned) -> None:
    status = tables.agent_status
    await update(assigned, sa.update(status).values(trust_score=49))


async def unassign(assigned: Assigned) -> None:
    await update(assigned, sa.update(tables.agent_desired).values(package_digest=None))


async def withdraw(assigned: Assigned) -> None:
    now = assigned.platform.clock.now
    await update(assigned, sa.update(tables.packages).values(withdrawn_at=now))


async def revoke_publisher(assigned: Assigned) -> None:
    platform = assigned.platform
    kid = compute_kid(platform.publisher.public_key()).hex()
    await platform.do(
        publishers.revoke_publisher, kid, reason="stolen", by=OPERATOR, now=platform.clock.now
    )


async def outlive_publisher(assigned: Assigned) -> None:
    platform = assigned.platform
    await change_publisher(platform, not_after=platform.clock.now + timedelta(hours=1))
    platform.clock.advance(hours=1)


async def narrow_publisher(assigned: Assigned) -> None:
    await change_publisher(assigned.platform, names=["another"])


async def change_publisher(platform: Platform, **terms: Any) -> None:
    kid = compute_kid(platform.publisher.public_key()).hex()
    now = platform.clock.now
    await platform.do(
        publishers.change_publisher, kid, **terms, reason="agreed", by=OPERATOR, now=now
    )


async def outlive(assigned: Assigned) -> None:
    assigned.platform.clock.advance(days=1, seconds=1)


async def turn_back(assigned: Assigned) -> None:
    assigned.platform.clock.advance(seconds=-1)


async def update(assigned: Assigned, statement: Any) -> None:
    async with assigned.platform.sessions.begin() as session:
        await session.execute(statement)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (revoke, "agent-revoked"),
        (quarantine, "quarantined"),
        (unassign, "not-assigned"),
        (withdraw, "package-withdrawn"),
        (revoke_publisher, "publisher-revoked"),
        (outlive_publisher, "publisher-expired"),
        (narrow_publisher, "publisher-not-allowed"),
        (outlive, "expired"),
        (turn_back, "not-yet-valid"),
    ],
)
async def test_an_agent_is_denied_and_told_why(
    assigned: Assigned, change: Change, reason: str
) -> None:
    request = assigned.request()
    await assigned.ask(request)
    await change(assigned)
    # A new request, and the one that was granted before.
    for asked in (assigned.request(), request):
        (envelope,) = await assigned.ask(asked)
        grant = assigned.open(envelope)
        assert (grant.denied, grant.sealed, grant.kid) == (reason, None, None)
    events = await assigned.platform.events("grant")
    assert events == ["grant.issued", "grant.denied", "grant.denied"]


async def test_a_package_that_another_agent_was_assigned_is_denied(assigned: Assigned) -> None:
    platform = assigned.platform
    fleet = await platform.add_fleet("g")
    await platform.add_agent(fleet)
    foreign = await platform.release()
    await platform.start(foreign, fleet)
    await platform.controller().step()
    grant = await assigned.ask_one(package_digest=foreign.package_digest.hex())
    assert grant.denied == "not-assigned"
    assert (await assigned.ask_one(package_digest="00" * 32)).denied == "not-assigned"


async def test_a_revocation_waits_for_a_grant_that_is_being_made_and_the_next_is_denied(
    assigned: Assigned,
) -> None:
    platform = assigned.platform
    revoking: asyncio.Task[None] | None = None
    async with platform.sessions.begin() as session:
        answers = await assigned.key_release.answer(
            session, [(assigned.agent_id, assigned.request())], now=platform.clock.now
        )
        revoking = asyncio.create_task(platform.set_status(assigned.agent_id, "revoked"))
        done, _ = await asyncio.wait([revoking], timeout=0.3)
        assert not done
    await revoking
    assert assigned.open(answers[0][1]).sealed is not None
    assert (await assigned.ask_one()).denied == "agent-revoked"


async def test_an_agent_that_asks_in_vain_floods_neither_the_ledger_nor_the_table(
    assigned: Assigned,
) -> None:
    requests = [assigned.request(package_digest="00" * 32) for _ in range(30)]
    assert len(await assigned.ask(*requests)) == 10
    assert len(await assigned.platform.events("grant.denied")) == 10
    assigned.platform.clock.advance(minutes=1)
    assert (await assigned.ask_one()).sealed is not None
    assert (await assigned.ask_one(package_digest="00" * 32)).denied == "not-assigned"


class BrokenProvider:
    """A key provider that counts its calls, and fails as it is told."""

    def __init__(self, platform: Platform) -> None:
        self._kek = platform.kek
        self.error: Exception | None = None
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kek, name)

    async def unwrap(self, wrapped: WrappedKey, context: Any) -> bytes:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return await self._kek.unwrap(wrapped, context)


async def test_calls_to_the_kek_grow_with_packages_and_not_with_requests(
    assigned: Assigned,
) -> None:
    provider = BrokenProvider(assigned.platform)
    assigned.key_release = KeyRelease(assigned.platform.keyring, provider)
    for _ in range(5):
        await assigned.ask_one()
    assert provider.calls == 1
    assigned.platform.clock.advance(minutes=5)
    await assigned.ask_one()
    assert provider.calls == 2


async def test_while_the_key_provider_is_away_the_request_stays_unanswered(
    assigned: Assigned,
) -> None:
    provider = BrokenProvider(assigned.platform)
    provider.error = Throttled("slow down")
    assigned.key_release = KeyRelease(assigned.platform.keyring, provider)
    request = assigned.request()
    assert await assigned.ask(request) == []
    provider.error = None
    assert await assigned.ask(request) == []  # not asked again at once
    assigned.platform.clock.advance(seconds=3)
    assert len(await assigned.ask(request)) == 1


async def test_taking_the_kek_away_stops_grants_within_a_cache_s_lifetime_and_says_why(
    assigned: Assigned,
) -> None:
    provider = BrokenProvider(assigned.platform)
    assigned.key_release = KeyRelease(assigned.platform.keyring, provider)
    await assigned.ask_one()
    provider.error = KeyDisabled("version 1 is disabled")
    assigned.platform.clock.advance(minutes=5)
    assert (await assigned.ask_one()).denied == "key-disabled"
