"""A fleet's own key: grants under it, and what happens when its owner takes it away."""

import asyncio
import os
import time
from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from tensorguard.services.keys import kek_changes
from tensorguard.services.keys.key_errors import KekInUse
from tensorguard.store import tables
from tensorguard.store.packages import Release
from tensorguard.vault.errors import KeyDisabled
from tensorguard.vault.reference import KekReference
from tensorguard.vault.wrapping import wrap_material
from tests.integration.deployments.builders import OPERATOR
from tests.integration.keys.builders import Vault
from tests.integration.vault import fake_aws


async def two_fleets(vault: Vault) -> tuple[Release, UUID, UUID]:
    """A release that is assigned to an agent of `own`, which brings a key, and one of `other`."""
    for fleet in ("own", "other"):
        await vault.add_fleet(fleet)
    agents = [await vault.add_agent(fleet) for fleet in ("own", "other")]
    release = await vault.release()
    await vault.assign(release, "own", "other")
    return release, agents[0], agents[1]


async def bring(vault: Vault, key: fake_aws.Key, fleet: str = "own") -> None:
    await vault.change(kek_changes.add_fleet_kek, fleet, KekReference.parse(f"aws:{key.arn}"))


async def test_a_fleet_s_grants_come_from_copies_under_its_own_key(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    release, own, other = await two_fleets(vault)
    key = kms.create()
    await bring(vault, key)
    kms.faults.ops.clear()
    for _ in range(5):
        assert await vault.denied(release, own) is None
        assert await vault.denied(release, other) is None
    assert kms.faults.ops == {"GenerateDataKey": 1}  # the copy was made, and is known
    copies = {name: row for name, row in (await vault.rows()).items() if row["fleet"] == "own"}
    [(name, row)] = copies.items()
    assert name == f"fleet-dek:{release.package_digest.hex()}/own"
    assert (row["provider"], row["key_id"]) == ("aws", key.arn)
    vault.restart_hub()
    assert await vault.denied(release, own) is None
    assert kms.faults.ops == {"GenerateDataKey": 1, "Decrypt": 1}


async def test_a_key_taken_away_stops_new_grants_within_a_cache_s_lifetime_and_says_why(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    release, own, other = await two_fleets(vault)
    key = kms.create()
    await bring(vault, key)
    assert await vault.denied(release, own) is None
    key.state = "Disabled"
    vault.clock.advance(minutes=5)
    assert await vault.denied(release, own) == "key-disabled"
    assert await vault.denied(release, other) is None
    kek = await vault.kek_of("own")
    assert (kek.trouble_code, kek.trouble_since) == ("key-disabled", vault.clock.now)
    calls = kms.faults.calls
    for _ in range(20):
        assert await vault.denied(release, own) in ("key-disabled", None)
        vault.clock.advance(seconds=30)
        if vault.clock.now - kek.trouble_since > timedelta(minutes=3):
            break
    assert kms.faults.calls == calls, "a key that was taken away is not asked for by requests"
    assert (await vault.events("kek.un", "kek.us")) == ["kek.unusable"]
    assert "grant.denied" in await vault.events("grant")

    key.state = "Enabled"
    await vault.watch()
    assert (await vault.kek_of("own")).trouble_code is None
    assert await vault.denied(release, own) is None, "its copy of the DEK was made anew"
    assert await vault.denied(release, own) is None
    assert (await vault.events("kek.un", "kek.us")) == ["kek.unusable", "kek.usable"]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("Disabled", "key-disabled"),
        ("PendingDeletion", "key-pending-deletion"),
        ("PendingImport", "key-missing"),
        ("denied", "key-permission-denied"),
    ],
)
async def test_the_watch_finds_within_a_minute_that_a_key_was_taken_away(
    vault: Vault, kms: fake_aws.FakeKms, state: str, code: str
) -> None:
    release, own, other = await two_fleets(vault)
    key = kms.create()
    await bring(vault, key)
    assert await vault.denied(release, own) is None
    if state == "denied":
        kms.faults.denied = True
    else:
        key.state = state
    await vault.watch()
    assert await vault.denied(release, own) == code, "although the DEK is still in the cache"
    assert await vault.denied(release, other) is None
    assert (await vault.kek_of("own")).trouble_code == code


async def test_a_provider_that_is_away_for_a_moment_denies_nobody(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    release, own, _ = await two_fleets(vault)
    await bring(vault, kms.create())
    kms.faults.internal = 1000
    await vault.watch()
    assert (await vault.kek_of("own")).trouble_code == "key-provider-unavailable"
    assert await vault.ask(release, own) == {}, "it is asked again, not denied"
    kms.faults.internal = 0
    vault.clock.advance(seconds=5)
    assert await vault.denied(release, own) is None
    assert await vault.events("kek.un") == []


async def test_a_provider_that_hangs_holds_up_no_batch_for_long(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    release, own, other = await two_fleets(vault)
    await bring(vault, kms.create())
    kms.faults.hanging = 1
    began = time.monotonic()
    answers = await vault.ask(release, own, other)
    assert time.monotonic() - began < 10
    assert own not in answers
    assert answers[other].denied is None
    give_up_at = time.monotonic() + 20
    while own not in answers:  # the opening goes on behind the batches
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.1)
        vault.clock.advance(seconds=1)
        answers = await vault.ask(release, own)
    assert answers[own].denied is None


async def test_another_key_takes_a_fleet_over_and_the_platform_s_may_as_well(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    release, own, _ = await two_fleets(vault)
    first, second = kms.create(), kms.create()
    await bring(vault, first)
    assert await vault.denied(release, own) is None
    await bring(vault, second)
    first.state = "Disabled"
    assert await vault.denied(release, own) is None
    kek = await vault.kek_of("own")
    assert kek.key_id == second.arn
    with pytest.raises(KekInUse):
        await bring(vault, second)
    await vault.do(kek_changes.remove_fleet_kek, kek.id, by=OPERATOR, now=vault.clock.now)
    second.state = "Disabled"
    assert await vault.denied(release, own) is None
    assert not [row for row in (await vault.rows()).values() if row["fleet"]]
    assert (await vault.events("kek."))[-2:] == ["kek.retired", "kek.replaced"]


async def test_a_key_that_does_not_work_becomes_nobody_s(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    await vault.add_fleet("own")
    key = kms.create()
    key.state = "Disabled"
    with pytest.raises(KeyDisabled):
        await bring(vault, key)
    assert [one.fleet for one in await vault.all_keks()] == [None]


async def test_imported_material_serves_a_fleet_until_it_expires(vault: Vault) -> None:
    release, own, other = await two_fleets(vault)
    kek = await vault.change(kek_changes.add_fleet_kek, "own", KekReference("local"))
    assert kek.origin == "imported"
    parameters = await vault.do(kek_changes.get_import_parameters, vault.kek, kek.id)
    end = vault.clock.now + timedelta(days=30)
    imported = await vault.change(
        kek_changes.import_material,
        kek.id,
        wrap_material(parameters, os.urandom(32)),
        token=parameters.token,
        expires_at=end,
    )
    assert (imported.key_version, imported.expires_at) == ("2", end)
    assert await vault.denied(release, own) is None
    vault.clock.advance(days=15)
    await vault.watch()
    assert await vault.events("kek.exp") == []
    vault.clock.advance(days=2)
    for _ in range(3):
        await vault.watch()
    assert await vault.events("kek.exp") == ["kek.expiring"], "told once"
    vault.clock.advance(days=14)
    assert await vault.denied(release, own) == "key-material-expired"
    assert await vault.denied(release, other) is None
    await vault.watch()
    assert (await vault.kek_of("own")).trouble_code == "key-missing"

    again = await vault.do(kek_changes.get_import_parameters, vault.kek, kek.id)
    await vault.change(
        kek_changes.import_material,
        kek.id,
        wrap_material(again, os.urandom(32)),
        token=again.token,
        expires_at=None,
    )
    await vault.watch()
    assert (await vault.kek_of("own")).trouble_code is None


async def agents_of(vault: Vault, fleet: str, count: int) -> list[UUID]:
    return [await vault.add_agent(fleet) for _ in range(count)]


async def test_rotating_the_keks_during_a_rollout_fails_no_agent(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    count = 200 if os.environ.get("TG_TEST_DEEP") else 20
    for fleet in ("own", "other"):
        await vault.add_fleet(fleet)
    agents = await agents_of(vault, "own", count // 2) + await agents_of(vault, "other", count // 2)
    release = await vault.release()
    await vault.assign(release, "own", "other")
    await bring(vault, kms.create())
    granted: dict[UUID, str | None] = {}

    async def roll_out() -> None:
        for start in range(0, count, 5):
            if start % 20 == 0:
                vault.restart_hub()  # with nothing in its cache
            for agent_id in agents[start : start + 5]:
                granted[agent_id] = await vault.denied(release, agent_id)

    async def rotate() -> None:
        for kek in (await vault.kek_of(), await vault.kek_of("own")):
            for _ in range(2):
                await vault.rotate(kek)
                job = await vault.start_rewrap(await vault.get(kek))
                assert (await vault.finish(job)).state == "done"
        arn = kms.create().arn
        assert (await vault.finish(await vault.migrate(f"aws:{arn}"))).state == "done"

    await asyncio.gather(roll_out(), rotate())
    assert granted == dict.fromkeys(agents)
    vault.restart_hub()
    assert {one.denied for one in (await vault.ask(release, *agents[:3])).values()} == {None}


async def test_no_agent_that_is_revoked_or_quarantined_is_granted_anything(
    vault: Vault,
) -> None:
    release, own, other = await two_fleets(vault)
    assert await vault.denied(release, own) is None
    await vault.set_status(own, "revoked")
    assert await vault.denied(release, own) == "agent-revoked"
    await quarantine(vault, other)
    assert await vault.denied(release, other) == "quarantined"


async def quarantine(vault: Vault, agent_id: UUID) -> None:
    async with vault.sessions.begin() as session:
        await session.execute(
            sa.update(tables.agent_status)
            .where(tables.agent_status.c.agent_id == agent_id)
            .values(trust_score=49)
        )


async def test_ten_thousand_grants_would_take_two_calls_at_most(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    await vault.finish(await vault.migrate(f"aws:{kms.create().arn}"))
    release, own, other = await two_fleets(vault)
    kms.faults.ops.clear()
    for _ in range(30):
        await vault.ask(release, own, other)
    assert kms.faults.calls == 1
