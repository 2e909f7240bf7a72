"""Rotation, rewrap jobs and migration: everything moves, nothing is lost, whatever interrupts."""

import asyncio

import pytest
import sqlalchemy as sa

from tensorguard.services.keys import kek_changes, rewrap_jobs
from tensorguard.services.keys.kek_providers import KekProviders
from tensorguard.services.keys.key_errors import KekMismatch, RewrapUnderWay
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.keys.sealed_rows import open_stored, store_secret
from tensorguard.store import tables
from tensorguard.vault.errors import KeyDisabled, KeyMissing, KeyVersionInUse
from tests.integration.keys.builders import Vault
from tests.integration.vault import fake_aws


async def add_secrets(vault: Vault, count: int) -> None:
    for number in range(count):
        await vault.do(
            store_secret,
            vault.kek,
            f"secret {number}".encode(),
            purpose="test",
            owner=f"{number:04}",
            now=vault.clock.now,
        )


async def opens(vault: Vault, keks: KekProviders, count: int) -> None:
    async with vault.sessions() as session:
        for number in range(count):
            opened = await open_stored(session, keks, purpose="test", owner=f"{number:04}")
            assert opened == f"secret {number}".encode()
        await Keyring.load(session, keks)


async def test_after_a_rotation_a_job_moves_every_secret_and_touches_no_ciphertext(
    vault: Vault,
) -> None:
    await add_secrets(vault, 45)
    before = await vault.rows()
    rotated = await vault.rotate()
    assert rotated.key_version == "2"
    assert set(await vault.under()) == {"local:1"}
    job = await vault.finish(await vault.start_rewrap())
    after = await vault.rows()
    assert (job.state, job.moved, job.failed) == ("done", len(before), 0)
    assert await vault.under() == {"local:2": len(before)}
    for name, row in after.items():
        assert (row["nonce"], row["ciphertext"]) == (
            before[name]["nonce"],
            before[name]["ciphertext"],
        )
        assert row["wrapped"] != before[name]["wrapped"]
    await opens(vault, await vault.another_process(), 45)
    told = await vault.events("kek.")
    assert told == ["kek.added", "kek.rotated", "kek.rewrap-started", "kek.rewrap-ended"]


async def test_whoever_watches_is_told_of_every_progress(vault: Vault) -> None:
    await add_secrets(vault, 30)
    kek = await vault.rotate()
    total = len(await vault.rows())
    async with vault.sessions() as session:
        assert await rewrap_jobs.count_all_misplaced(session) == {kek.id: total}
    job = await vault.start_rewrap()
    async with vault.sessions.begin() as session:
        await session.execute(sa.delete(tables.stream_events))
    assert await vault.rewrapper().step(job.id)
    async with vault.sessions() as session:
        assert await rewrap_jobs.count_all_misplaced(session) == {kek.id: total - 20}
        event = tables.stream_events.c
        told = (await session.execute(sa.select(event.kind, event.subject_id))).all()
    assert told == [("trust", str(kek.id))]


async def test_a_second_request_joins_the_job_that_runs(vault: Vault) -> None:
    await vault.rotate()
    first = await vault.start_rewrap()
    assert (await vault.start_rewrap()).id == first.id
    await vault.finish(first)
    assert (await vault.start_rewrap()).id != first.id


async def test_a_worker_that_dies_is_succeeded_and_nothing_is_done_twice(vault: Vault) -> None:
    await add_secrets(vault, 50)
    await vault.rotate()
    job = await vault.start_rewrap()
    dying, other = vault.rewrapper(), vault.rewrapper()
    assert await dying.step(job.id)
    moved = (await vault.under())["local:2"]
    assert 0 < moved <= 20
    assert not await other.step(job.id), "the first one has the lease"
    assert (await vault.under())["local:2"] == moved
    vault.clock.advance(seconds=61)
    done = await other.work_on(job.id, asyncio.Event())
    assert (done.state, done.moved) == ("done", len(await vault.rows()))
    assert not await dying.step(job.id)


async def test_no_step_moves_more_than_the_rate_allows(vault: Vault) -> None:
    await add_secrets(vault, 10)
    await vault.rotate()
    job = await vault.start_rewrap(per_second=3)
    await vault.rewrapper().step(job.id)
    assert (await vault.under())["local:2"] == 3


async def test_a_row_that_changed_meanwhile_is_not_overwritten(vault: Vault) -> None:
    await add_secrets(vault, 3)
    await vault.rotate()
    job = await vault.start_rewrap()

    class Meddling:
        """Changes a row between its reading and its writing."""

        def __init__(self, inner: object) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

        async def wrap(self, key: bytes, context: dict[str, str]) -> object:
            if context["purpose"] == "test" and context["owner"] == "0001":
                async with vault.sessions.begin() as session:
                    await session.execute(
                        sa.update(tables.secrets)
                        .where(tables.secrets.c.id == "test:0001")
                        .values(wrapped=b"written by somebody else")
                    )
            return await self._inner.wrap(key, context)  # type: ignore[attr-defined]  # a provider

    keks = await vault.another_process()
    inner = await keks.open_kek(await vault.kek_of())
    keks._open[("local", inner.key_id)] = Meddling(inner)  # type: ignore[attr-defined, assignment]
    await vault.rewrapper(keks).step(job.id)
    assert (await vault.rows())["test:0001"]["wrapped"] == b"written by somebody else"


async def test_a_damaged_row_is_named_and_the_others_move(vault: Vault) -> None:
    await add_secrets(vault, 5)
    async with vault.sessions.begin() as session:
        await session.execute(
            sa.update(tables.secrets)
            .where(tables.secrets.c.id == "test:0002")
            .values(wrapped=bytes(60))
        )
    await vault.rotate()
    job = await vault.finish(await vault.start_rewrap())
    assert (job.state, job.failed) == ("failed", 1)
    assert job.reason is not None
    assert "test:0002" in job.reason
    assert (await vault.under())["local:1"] == 1
    assert (await vault.events("kek.rewrap"))[-1] == "kek.rewrap-failed"


async def test_a_version_is_not_disabled_while_a_secret_needs_it(vault: Vault) -> None:
    kek = await vault.kek_of()
    with pytest.raises(KeyVersionInUse, match="wrapped under"):
        await vault.change(kek_changes.set_version_enabled, kek.id, "1", enabled=False)
    await vault.rotate()
    with pytest.raises(KeyVersionInUse, match="secrets are under"):
        await vault.change(kek_changes.set_version_enabled, kek.id, "1", enabled=False)
    job = await vault.start_rewrap()
    with pytest.raises(RewrapUnderWay):
        await vault.change(kek_changes.set_version_enabled, kek.id, "1", enabled=False)
    await vault.finish(job)
    await vault.change(kek_changes.set_version_enabled, kek.id, "1", enabled=False)
    await opens(vault, await vault.another_process(), 0)
    early = await vault.another_process()
    await add_secrets(vault, 2)
    await opens(vault, early, 2)


async def test_a_process_that_knows_of_no_rotation_still_seals_under_the_new_version(
    vault: Vault,
) -> None:
    early = await vault.another_process()
    await vault.rotate()
    await vault.do(store_secret, early, b"late", purpose="test", owner="late", now=vault.clock.now)
    assert (await vault.rows())["test:late"]["key_version"] == "2"


async def test_everything_moves_from_one_provider_to_another_and_back(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    await add_secrets(vault, 25)
    early = await vault.another_process()
    first = await vault.kek_of()
    arn = kms.create().arn
    job = await vault.finish(await vault.migrate(f"aws:{arn}"))
    assert (job.state, job.kind) == ("done", "migrate")
    assert {place.partition(":")[0] for place in await vault.under()} == {"aws"}
    assert [(one.provider, one.state) for one in await vault.all_keks()] == [
        ("local", "retired"),
        ("aws", "active"),
    ]
    await opens(vault, early, 25)
    await opens(vault, await vault.another_process(), 25)
    await vault.do(store_secret, early, b"late", purpose="test", owner="late", now=vault.clock.now)
    assert (await vault.rows())["test:late"]["provider"] == "aws"

    back = await vault.finish(await vault.migrate("local"))
    assert back.state == "done"
    assert (await vault.kek_of()).key_id == first.key_id
    assert {place.partition(":")[0] for place in await vault.under()} == {"local"}
    await opens(vault, await vault.another_process(), 25)


async def test_a_key_that_does_not_work_takes_nothing_over(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    key = kms.create()
    key.state = "Disabled"
    with pytest.raises(KeyDisabled):
        await vault.migrate(f"aws:{key.arn}")
    with pytest.raises(KeyMissing):
        await vault.migrate(f"aws:{key.arn}00")
    assert [one.provider for one in await vault.all_keks()] == ["local"]
    assert await vault.events("kek.") == ["kek.added"]


async def test_a_migration_waits_for_a_throttling_provider_and_goes_on(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    await add_secrets(vault, 25)
    job = await vault.migrate(f"aws:{kms.create().arn}")
    rewrapper = vault.rewrapper()
    assert await rewrapper.step(job.id)
    kms.faults.throttled = 100_000
    assert not await rewrapper.step(job.id)
    async with vault.sessions() as session:
        waiting = (await session.execute(sa.select(tables.rewrap_jobs))).one()
    assert (waiting.state, waiting.code) == ("running", "key-provider-throttled")
    assert waiting.retry_at > vault.clock.now
    await opens_everything_while(vault, kms)
    vault.clock.advance(seconds=20)
    done = await rewrapper.work_on(job.id, asyncio.Event())
    assert done.state == "done"
    assert done.code is None
    await opens(vault, await vault.another_process(), 25)


async def opens_everything_while(vault: Vault, kms: fake_aws.FakeKms) -> None:
    kms.faults.throttled = 0
    await opens(vault, await vault.another_process(), 25)


async def test_a_key_disabled_in_mid_migration_ends_the_job_and_leaves_everything_readable(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    await add_secrets(vault, 25)
    key = kms.create()
    job = await vault.migrate(f"aws:{key.arn}")
    rewrapper = vault.rewrapper()
    assert await rewrapper.step(job.id)
    key.state = "Disabled"
    ended = await rewrapper.work_on(job.id, asyncio.Event())
    assert (ended.state, ended.code) == ("failed", "key-disabled")
    assert {one.state for one in await vault.all_keks()} == {"former", "active"}
    key.state = "Enabled"
    await opens(vault, await vault.another_process(), 25)
    done = await vault.finish(await vault.start_rewrap())
    assert done.state == "done"
    assert done.moved + ended.moved == len(await vault.rows())


async def test_a_row_that_names_a_key_of_somebody_else_calls_nobody(
    vault: Vault, kms: fake_aws.FakeKms
) -> None:
    stranger = kms.create()
    await add_secrets(vault, 1)
    async with vault.sessions.begin() as session:
        await session.execute(
            sa.update(tables.secrets)
            .where(tables.secrets.c.id == "test:0000")
            .values(provider="aws", key_id=stranger.arn)
        )
    with pytest.raises(KeyMissing, match="no KEK of this platform"):
        await opens(vault, vault.kek, 1)
    assert kms.faults.calls == 0


async def test_a_process_that_expects_another_kek_does_not_start(vault: Vault) -> None:
    async with vault.sessions() as session:
        await KekProviders.load(session, vault.kek.opener, expected="local")
        with pytest.raises(KekMismatch):
            await KekProviders.load(
                session,
                vault.kek.opener,
                expected="aws:arn:aws:kms:eu-central-1:111122223333:key/x",
            )
