"""The sequencer: one line of entries whatever happens, signed as it stands committed."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import select, text

from hub.sequencer import Sequencer
from tensorguard.ledger.checkpoint import verify_checkpoint
from tensorguard.ledger.errors import LedgerForked
from tensorguard.ledger.tree import (
    Frontier,
    Node,
    leaf_hash,
    prove_consistency,
    prove_inclusion,
    verify_consistency,
    verify_inclusion,
)
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.filters import EntryFilter
from tensorguard.services.evidence.ledger_queries import count_entries, list_entries
from tensorguard.services.evidence.sequencing import sequence
from tensorguard.services.evidence.tree_queries import (
    NoCheckpoint,
    find_latest_checkpoint,
    get_latest_checkpoint,
    get_nodes,
    get_size,
)
from tensorguard.store.engine import SessionMaker
from tensorguard.store.tables import ledger_checkpoints, ledger_events, ledger_unsequenced
from tests.integration.ledger.builders import (
    EPOCH,
    KEY,
    ORIGIN,
    SIGNER,
    MakeSequencer,
    fleet_created,
    now,
    reported,
)
from tests.patience import PATIENCE_S
from tests.postgres import Database

ALWAYS = timedelta(0)


async def write(sessions: SessionMaker, count: int) -> None:
    async with sessions.begin() as session:
        await ledger.record_many(session, [reported(number) for number in range(count)], now=now())


@asynccontextmanager
async def running(*sequencers: Sequencer) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for sequencer in sequencers:
            tasks.create_task(sequencer.run(stop))
        try:
            yield
        finally:
            stop.set()


async def signed(sessions: SessionMaker, size: int) -> None:
    """Wait until a checkpoint covers `size` entries."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with sessions() as session:
                last = await find_latest_checkpoint(session, EPOCH)
            if last is not None and last.tree_size >= size:
                assert last.tree_size == size
                return
            await asyncio.sleep(0.02)


async def check_everything(sessions: SessionMaker, size: int) -> None:
    """Rebuild the tree from the stored bytes alone; compare every hash and checkpoint with it."""
    async with sessions() as session:
        assert await get_size(session, EPOCH) == size
        assert (await session.execute(select(ledger_unsequenced))).all() == []
        events = (await session.execute(select(ledger_events.c.id))).scalars().all()
        items, start = [], 0
        while True:
            page = await list_entries(session, start=start, limit=997)
            items += page.items
            if page.next_start is None:
                break
            start = page.next_start
        assert [item.leaf_index for item in items] == list(range(size))
        assert sorted(item.id for item in items) == sorted(events)
        frontier, nodes, roots = Frontier(), {}, {}
        for item in items:
            assert item.leaf_hash == leaf_hash(item.entry)
            nodes[Node(0, item.leaf_index)] = item.leaf_hash
            nodes |= dict(frontier.append(item.leaf_hash))
            roots[frontier.size] = frontier.root
        assert await get_nodes(session, EPOCH, list(nodes)) == nodes
        interior = await session.execute(text("SELECT count(*) FROM ledger_hashes"))
        assert interior.scalar_one() == len(nodes) - size
        for row in await session.execute(select(ledger_checkpoints)):
            checkpoint = verify_checkpoint(row.note, [KEY])
            assert (checkpoint.origin, checkpoint.size) == (ORIGIN, row.tree_size)
            assert checkpoint.root == row.root_hash == roots[row.tree_size]


async def test_the_first_entries_are_in_the_tree_and_signed(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    async with sessions() as session:
        with pytest.raises(NoCheckpoint):
            await get_latest_checkpoint(session)
    await make_sequencer().step()
    async with sessions() as session:
        assert (
            await find_latest_checkpoint(session, EPOCH) is None
        )  # nothing happened: nothing to sign
    await write(sessions, 5)
    await make_sequencer().step()
    await check_everything(sessions, 5)
    async with sessions() as session:
        assert (await get_latest_checkpoint(session)).tree_size == 5


async def test_a_checkpoint_is_verified_by_openssl(
    sessions: SessionMaker, make_sequencer: MakeSequencer, tmp_path: Path
) -> None:
    await write(sessions, 3)
    await make_sequencer().step()
    async with sessions() as session:
        note = (await get_latest_checkpoint(session)).note
    body, _, signatures = note.rpartition("\n\n")
    (tmp_path / "text").write_text(body + "\n")
    signature = base64.b64decode(signatures.split()[2])
    assert signature[:4] == KEY.hash
    (tmp_path / "signature").write_bytes(signature[4:])
    public = SIGNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key").write_bytes(public)
    arguments = "pkeyutl -verify -pubin -inkey key -rawin -in text -sigfile signature"
    openssl = await asyncio.create_subprocess_exec("openssl", *arguments.split(), cwd=tmp_path)
    assert await openssl.wait() == 0


async def test_a_checkpoint_comes_at_most_once_in_its_time(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    at = [now()]
    sequencer = make_sequencer(clock=lambda: at[0])
    sizes = []
    for seconds in (0, 0.4, 0.5, 0.2):
        at[0] += timedelta(seconds=seconds)
        await write(sessions, 2)
        await sequencer.step()
        async with sessions() as session:
            sizes.append((await get_latest_checkpoint(session)).tree_size)
    assert sizes == [2, 2, 2, 8]
    await check_everything(sessions, 8)


async def test_stored_hashes_prove_every_entry_and_every_past_checkpoint(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    sequencer = make_sequencer(checkpoint_every=ALWAYS, batch_events=7)
    for count in (1, 6, 7, 20):
        await write(sessions, count)
        while await sequencer.step():
            pass
    async with sessions() as session:
        checkpoints = (await session.execute(select(ledger_checkpoints))).all()
        size = await get_size(session, EPOCH)
        complete = [
            Node(level, n) for level in range(size.bit_length()) for n in range(size >> level)
        ]
        stored = await get_nodes(session, EPOCH, complete)
    root = checkpoints[-1].root_hash
    assert (checkpoints[-1].tree_size, len(checkpoints) >= 4) == (size, True)
    for index in range(size):
        proof = prove_inclusion(index, size, stored.__getitem__)
        verify_inclusion(index, size, stored[Node(0, index)], proof, root)
    for old in checkpoints:
        path = prove_consistency(old.tree_size, size, stored.__getitem__)
        verify_consistency(old.tree_size, size, old.root_hash, root, path)


async def test_two_sequencers_and_late_commits_make_one_line_without_gaps(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    async def writer(seed: int) -> int:
        random, written = Random(seed), 0
        for _ in range(12):
            async with sessions() as session:
                count = random.randrange(1, 30)
                events = [reported(number) for number in range(count)]
                await ledger.record_many(session, events, now=now())
                # Ids are older than others' that commit meanwhile: what a cursor would miss.
                await asyncio.sleep(random.random() * 0.08)
                if random.random() < 0.2:
                    await session.rollback()
                    continue
                await session.commit()
                written += count
        return written

    sequencers = [
        make_sequencer(
            interval=timedelta(milliseconds=5), checkpoint_every=ALWAYS, batch_events=batch
        )
        for batch in (5, 17)
    ]
    async with running(*sequencers):
        written = sum(await asyncio.gather(*map(writer, range(4))))
        await signed(sessions, written)
    await check_everything(sessions, written)


async def test_a_sequencer_that_waits_for_nobody_leaves_the_others_work_alone(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    await write(sessions, 4)
    async with sessions.begin() as leader:
        assert await sequence(leader) == 4
        async with asyncio.timeout(PATIENCE_S):
            assert await make_sequencer().step() is False
        async with sessions() as session:
            assert await get_size(session, EPOCH) == 0
    await make_sequencer().step()
    await check_everything(sessions, 4)


async def test_what_another_sequencer_left_unsigned_is_signed(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    await write(sessions, 1)
    survivor = make_sequencer(checkpoint_every=ALWAYS)
    await survivor.step()
    await write(sessions, 2)
    async with sessions.begin() as session:
        assert await sequence(session) == 2  # and dies before it signs
    await survivor.step()
    async with sessions() as session:
        assert (await get_latest_checkpoint(session)).tree_size == 3


async def test_a_sequencer_that_is_cancelled_anywhere_leaves_nothing_half_done(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    random, written, outcomes = Random(7), 0, []
    for _ in range(25):
        await write(sessions, 40)
        written += 40
        task = asyncio.create_task(make_sequencer(batch_events=25, checkpoint_every=ALWAYS).step())
        await asyncio.sleep(random.random() * 0.02)
        task.cancel()
        outcomes += await asyncio.gather(task, return_exceptions=True)
    assert any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    sequencer = make_sequencer(checkpoint_every=ALWAYS)
    while await sequencer.step():
        pass
    await check_everything(sessions, written)


async def test_a_sequencer_whose_connection_is_killed_goes_on_by_itself(
    sessions: SessionMaker, make_sequencer: MakeSequencer, fresh_database: Database
) -> None:
    sequencer = make_sequencer(interval=timedelta(milliseconds=5), checkpoint_every=ALWAYS)
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with running(sequencer):
        await write(sessions, 10)
        await signed(sessions, 10)
        with psycopg.connect(fresh_database.superuser_url, autocommit=True) as connection:
            killed = connection.execute(kill).fetchone()
            assert killed is not None
            assert killed[0] > 0
        await write(sessions, 10)
        await signed(sessions, 20)
    await check_everything(sessions, 20)


async def test_nothing_is_signed_once_the_signed_past_was_changed(
    sessions: SessionMaker, make_sequencer: MakeSequencer, fresh_database: Database
) -> None:
    await write(sessions, 4)
    sequencer = make_sequencer(checkpoint_every=ALWAYS)
    await sequencer.step()
    forged = hashlib.sha256(b"forged").digest()
    with psycopg.connect(fresh_database.owner_url) as connection:  # an owner who means it
        connection.execute("ALTER TABLE ledger_hashes DISABLE TRIGGER ALL")
        connection.execute("UPDATE ledger_hashes SET hash = %s WHERE level = 2", (forged,))
    await write(sessions, 1)
    with pytest.raises(LedgerForked, match="not those that were signed"):
        await sequencer.step()
    async with sessions() as session:
        assert (await get_latest_checkpoint(session)).tree_size == 4


async def test_nothing_is_signed_when_signed_entries_are_gone(
    sessions: SessionMaker, make_sequencer: MakeSequencer, fresh_database: Database
) -> None:
    await write(sessions, 4)
    sequencer = make_sequencer(checkpoint_every=ALWAYS)
    await sequencer.step()
    with psycopg.connect(fresh_database.owner_url) as connection:
        connection.execute("ALTER TABLE ledger_entries DISABLE TRIGGER ALL")
        connection.execute("DELETE FROM ledger_entries WHERE leaf_index = 3")
    with pytest.raises(LedgerForked, match="has 3 entries, 4 were signed"):
        await sequencer.step()


async def test_entries_are_listed_and_counted_by_all_that_they_can_be_asked_for(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    began = now()
    async with sessions.begin() as session:
        for slug in ("factory-b", "hospital-a", "factory-b"):
            await ledger.record(session, fleet_created(slug), now=now())
        await ledger.record_many(session, [reported(1), reported(2)], now=now())
    await make_sequencer().step()

    async def places(*, start: int = 0, end: int | None = None, **asked: Any) -> list[int]:
        only = EntryFilter(**asked)
        async with sessions() as session:
            page = await list_entries(session, start=start, end=end, only=only)
            count = await count_entries(session, start=start, end=end, only=only)
        assert count == len(page.items)
        return [item.leaf_index for item in page.items]

    assert await places() == [0, 1, 2, 3, 4]
    assert await places(start=1, end=3) == [1, 2]
    assert await places(type_prefixes=["fleet"]) == [0, 1, 2]
    assert await places(type_prefixes=["fleet.created"]) == [0, 1, 2]
    assert await places(type_prefixes=["agent.reported"]) == [3, 4]
    assert await places(type_prefixes=["agent.report"]) == []
    assert await places(type_prefixes=["%"]) == []
    assert await places(type_prefixes=["fleet", "agent"], without=["agent.reported"]) == [0, 1, 2]
    assert await places(without=["fleet", "agent.reported.model"]) == []
    assert await places(without=["agent.report"]) == [0, 1, 2, 3, 4]
    assert await places(fleet="hospital-a") == [1, 3, 4]
    assert await places(subject_id="factory-b") == [0, 2]
    assert await places(actor_id="u1") == [0, 1, 2]
    assert await places(outcomes=["success", "denied"]) == [0, 1, 2, 3, 4]
    assert await places(outcomes=["denied"]) == []
    assert await places(not_before=began, before=now()) == [0, 1, 2, 3, 4]
    assert await places(before=began) == []
    async with sessions() as session:
        only = EntryFilter(fleet="hospital-a")
        page = await list_entries(session, only=only, limit=2)
        assert ([item.leaf_index for item in page.items], page.next_start) == ([1, 3], 4)
        rest = await list_entries(session, only=only, limit=2, start=page.next_start or 0)
        assert ([item.leaf_index for item in rest.items], rest.next_start) == ([4], None)


async def test_a_backlog_is_sequenced_in_bounded_batches(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    for _ in range(3):
        await write(sessions, 500)
    sequencer = make_sequencer(batch_events=400)
    steps = [await sequencer.step() for _ in range(4)]
    assert steps == [True, True, True, False]
    await check_everything(sessions, 1500)


async def test_each_checkpoint_is_told_once_to_whoever_watches(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    async with sessions.begin() as session:
        await ledger.record_many(session, [reported(1), reported(2)], now=now())
    sequencer = make_sequencer(checkpoint_every=timedelta(0))
    await sequencer.step()
    await sequencer.step()
    async with sessions() as session:
        query = "SELECT subject_id FROM stream_events WHERE kind <> 'overview'"
        assert list((await session.execute(text(query))).scalars()) == ["2"]
