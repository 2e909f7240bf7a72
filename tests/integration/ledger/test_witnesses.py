"""Checkpoints outside of the database: a ledger that is older than they are does not go on."""

import shutil
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import boto3
import psycopg
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from sqlalchemy import select

from hub.batch import From
from hub.echoes import MOST_WAITING, Echoes
from hub.settings import HubSettings
from hub.witness import Witness
from tensorguard.ledger.checkpoint import parse_checkpoint, verify_checkpoint
from tensorguard.protocol.messages import Heartbeat, LedgerSeen
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.bucket import BucketFailed, BucketSettings, CheckpointBucket
from tensorguard.services.evidence.checkpoint_file import read_note, write_note
from tensorguard.services.evidence.epochs import ForeignCheckpoint, begin_epoch
from tensorguard.services.evidence.event import SYSTEM
from tensorguard.services.evidence.ledger_queries import list_entries
from tensorguard.services.evidence.tree_queries import get_latest_checkpoint, get_size
from tensorguard.services.evidence.witnesses import LedgerRestored, list_forks
from tensorguard.store.engine import SessionMaker
from tensorguard.store.tables import ledger_events, ledger_unsequenced, platform
from tests.integration.ledger.builders import (
    KEY,
    TRUST_DOMAIN,
    MakeSequencer,
    now,
    reported,
)
from tests.postgres import Database

ALWAYS = timedelta(0)
BUCKET = "evidence"


@pytest.fixture
async def signed(sessions: SessionMaker, make_sequencer: MakeSequencer) -> str:
    """A ledger of four entries; the note that says so."""
    async with sessions.begin() as session:
        await session.execute(platform.update().values(trust_domain=TRUST_DOMAIN))
    return await grow(sessions, make_sequencer, 4)


async def grow(sessions: SessionMaker, make_sequencer: MakeSequencer, count: int) -> str:
    async with sessions.begin() as session:
        await ledger.record_many(session, [reported(one) for one in range(count)], now=now())
    await make_sequencer(checkpoint_every=ALWAYS).step()
    async with sessions() as session:
        return (await get_latest_checkpoint(session)).note


def forget_everything_from(database: Database, size: int) -> None:
    """Put the database back to what it was at `size`, as a restored backup does."""
    with psycopg.connect(database.superuser_url) as connection:
        connection.execute("SET session_replication_role = replica")
        for table in ("ledger_events", "ledger_entries", "ledger_hashes", "ledger_checkpoints"):
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only")
        connection.execute("DELETE FROM ledger_checkpoints WHERE tree_size > %s", (size,))
        connection.execute(
            "DELETE FROM ledger_hashes WHERE (index + 1) * (1::bigint << level::int) > %s", (size,)
        )
        connection.execute(
            "DELETE FROM ledger_events USING ledger_entries"
            " WHERE event_id = id AND leaf_index >= %s",
            (size,),
        )
        connection.execute("DELETE FROM ledger_entries WHERE leaf_index >= %s", (size,))


def witness_of(
    sessions: SessionMaker,
    file: Path,
    echoes: Echoes | None = None,
    bucket: CheckpointBucket | None = None,
) -> Witness:
    return Witness(sessions, echoes or Echoes(), file=file, bucket=bucket, clock=now)


def beat(size: int, root: str, *, epoch: int = 1, agent: UUID | None = None) -> From[Heartbeat]:
    message = Heartbeat(
        boot_id=uuid4(),
        boot_count=0,
        seq=0,
        sent_at=now(),
        cpu_percent=1,
        memory_percent=1,
        disk_percent=1,
        agent_version="1",
        ledger=LedgerSeen(epoch=epoch, size=size, root=root),
    )
    return From("hospital-a", agent or uuid4(), message, now())


async def test_a_database_from_an_older_backup_is_refused_until_a_new_epoch_begins(
    sessions: SessionMaker,
    make_sequencer: MakeSequencer,
    fresh_database: Database,
    signed: str,
    tmp_path: Path,
) -> None:
    file = tmp_path / "ledger" / "checkpoint"
    later = await grow(sessions, make_sequencer, 3)
    witness = witness_of(sessions, file)
    await witness.step()
    assert read_note(file) == later
    await witness_of(sessions, file).check()

    forget_everything_from(fresh_database, 4)
    with pytest.raises(LedgerRestored):  # under a running hub
        await witness.step()
    assert read_note(file) == later
    with pytest.raises(LedgerRestored, match=r"of 7 entries.*has 4 in epoch 1.*older backup"):
        await witness_of(sessions, file).check()

    async with sessions.begin() as session:
        begun = await begin_epoch(
            session, reason="disk failed", last_note=later, by=SYSTEM, now=now()
        )
    assert (begun.number, begun.origin, begun.held) == (2, f"{TRUST_DOMAIN}/ledger/2", 4)
    await witness_of(sessions, file).check()
    note = await grow(sessions, make_sequencer, 2)
    assert parse_checkpoint(note).origin == f"{TRUST_DOMAIN}/ledger/2"
    async with sessions() as session:
        page = await list_entries(session)
        first = page.items[0]
        assert (first.epoch, first.leaf_index, first.type) == (2, 0, "ledger.epoch-began")
        assert later.encode().split(b"\n")[0] in first.entry  # the note stands in it
        assert (len(page.items), await get_size(session, 1)) == (3, 4)
        assert [item.epoch for item in (await list_entries(session, epoch=1)).items] == [1] * 4


async def test_a_rewritten_past_is_refused(
    sessions: SessionMaker, signed: str, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoint"
    lines = signed.split("\n")
    write_note(file, signed.replace(lines[2], "A" * 43 + "="))
    with pytest.raises(LedgerRestored, match="was seen with the root 0000"):
        await witness_of(sessions, file).check()
    file.write_text("damaged")
    await witness_of(sessions, file).check()  # an accident, which no start-up may die of


async def test_a_new_epoch_wants_a_checkpoint_of_this_platform(
    sessions: SessionMaker, signed: str
) -> None:
    foreign = signed.replace(TRUST_DOMAIN, "elsewhere.example")
    async with sessions() as session:
        with pytest.raises(ForeignCheckpoint):
            await begin_epoch(session, reason="r", last_note=foreign, by=SYSTEM, now=now())


async def test_a_device_that_saw_what_we_cannot_extend_raises_one_alarm(
    sessions: SessionMaker, signed: str, tmp_path: Path
) -> None:
    echoes, checkpoint, liar = Echoes(), verify_checkpoint(signed, [KEY]), uuid4()
    witness = witness_of(sessions, tmp_path / "checkpoint", echoes)
    echoes.add([beat(4, checkpoint.root.hex()), beat(9, "ab" * 32), beat(9, "ab" * 32)])
    echoes.add([beat(4, "cd" * 32, agent=liar), beat(3, "cd" * 32, agent=liar)])
    echoes.add([beat(1, "ab" * 32, epoch=2)])
    await witness.step()
    await witness.step()
    async with sessions() as session:
        forks = await list_forks(session)
        query = select(ledger_events.c.type).where(ledger_events.c.type == "ledger.fork-seen")
        told = (await session.execute(query)).all()
    assert sorted((fork.epoch, fork.tree_size, fork.reason) for fork in forks) == [
        (1, 4, "other-root"),
        (1, 9, "larger"),
        (2, 1, "newer-epoch"),
    ]
    assert len(told) == 3


def test_made_up_echoes_do_not_grow_without_end() -> None:
    echoes = Echoes()
    echoes.add([beat(size, "ab" * 32) for size in range(1, MOST_WAITING + 50)])
    assert len(echoes.waiting) == MOST_WAITING


async def test_a_checkpoint_in_the_bucket_is_locked_and_holds_a_restored_ledger_up(
    sessions: SessionMaker,
    make_sequencer: MakeSequencer,
    fresh_database: Database,
    signed: str,
    tmp_path: Path,
) -> None:
    with mock_aws():
        client = boto3.client(
            "s3",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
        bucket = CheckpointBucket(BucketSettings(name=BUCKET, prefix="tg/"), client)
        await witness_of(sessions, tmp_path / "a", bucket=bucket).step()
        later = await grow(sessions, make_sequencer, 3)
        await witness_of(sessions, tmp_path / "a", bucket=bucket).step()
        keys = [item["Key"] for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
        assert keys == [f"tg/checkpoints/{1:010d}/{size:020d}" for size in (4, 7)]
        stored = client.head_object(Bucket=BUCKET, Key=keys[-1])
        assert stored["ObjectLockMode"] == "COMPLIANCE"
        assert stored["ObjectLockRetainUntilDate"] > now() + timedelta(days=3649)
        versions = client.list_object_versions(Bucket=BUCKET, Prefix=keys[-1])["Versions"]
        version = versions[0]["VersionId"]
        with pytest.raises(ClientError, match="AccessDenied"):
            client.delete_object(Bucket=BUCKET, Key=keys[-1], VersionId=version)

        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        (tmp_path / "a").unlink(missing_ok=True)
        await witness_of(sessions, tmp_path / "b", bucket=bucket).check()
        forget_everything_from(fresh_database, 4)
        with pytest.raises(LedgerRestored, match="of 7 entries"):
            await witness_of(sessions, tmp_path / "b", bucket=bucket).check()
        assert parse_checkpoint(later).size == 7

        absent = CheckpointBucket(BucketSettings(name="absent"), client)
        with pytest.raises(BucketFailed, match="absent"):
            await witness_of(sessions, tmp_path / "b", bucket=absent).check()


async def test_the_hubs_settings_name_the_bucket_and_how_long_it_keeps_what_it_gets(
    signed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name, value in (("", BUCKET), ("_PREFIX", "hub/"), ("_RETENTION", "P400D")):
        monkeypatch.setenv(f"TG_LEDGER_BUCKET{name}", value)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
        settings = HubSettings(database_url="postgresql://x/y", data_dir=Path("/nowhere"))
        bucket = settings.checkpoint_bucket()
        assert bucket is not None
        key = bucket.put(signed, now=now())
        assert key.startswith("hub/checkpoints/")
        until = client.head_object(Bucket=BUCKET, Key=key)["ObjectLockRetainUntilDate"]
        assert timedelta(days=399) < until - now() < timedelta(days=401)
    monkeypatch.delenv("TG_LEDGER_BUCKET")
    nowhere = HubSettings(database_url="postgresql://x/y", data_dir=Path("/nowhere"))
    assert nowhere.checkpoint_bucket() is None


async def test_the_sequencer_does_not_write_into_an_epoch_that_has_ended(
    sessions: SessionMaker, make_sequencer: MakeSequencer, signed: str
) -> None:
    async with sessions.begin() as session:
        await ledger.record(session, reported(9), now=now())  # waits while the epoch begins
        await begin_epoch(session, reason="r", last_note=None, by=SYSTEM, now=now())
    await make_sequencer(checkpoint_every=ALWAYS).step()
    async with sessions() as session:
        assert [await get_size(session, epoch) for epoch in (1, 2)] == [4, 2]
        assert (await session.execute(select(ledger_unsequenced))).all() == []
