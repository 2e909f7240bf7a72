"""Exports that are taken slowly hold neither a transaction nor much memory."""

import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.compliance.proofs import export_entries
from tensorguard.services.evidence import exporting, ledger, ledger_queries
from tensorguard.services.evidence.exporting import ExportRequest, export_compressed, export_lines
from tensorguard.services.evidence.filters import EntryFilter
from tensorguard.services.evidence.tree_queries import get_latest_checkpoint
from tensorguard.store.engine import SessionMaker
from tests.integration.ledger.builders import MakeSequencer, now, reported

ENTRIES = 240
ENTRY_BYTES = 8_000


@pytest.fixture
async def large(sessions: SessionMaker, make_sequencer: MakeSequencer) -> None:
    """A ledger of large entries that do not compress."""
    chance = random.Random(1)
    async with sessions.begin() as session:
        events = [
            structs.replace(
                reported(number),
                data={"noise": chance.randbytes(ENTRY_BYTES // 2).hex()},
                fleet="ward" if number % 2 else "other",
            )
            for number in range(ENTRIES)
        ]
        await ledger.record_many(session, events, now=now())
    await make_sequencer(checkpoint_every=timedelta(0)).step()


async def taken_slowly(session: AsyncSession, chunks: AsyncIterator[bytes]) -> int:
    """Take chunks as somebody does who stops after each; return how many there were."""
    count = 0
    async for _ in chunks:
        assert not session.in_transaction(), "a connection is held while nobody reads"
        count += 1
    return count


@pytest.mark.parametrize("only", [EntryFilter(), EntryFilter(fleet="ward")], ids=["all", "some"])
async def test_whoever_downloads_slowly_holds_no_transaction(
    sessions: SessionMaker, large: None, monkeypatch: pytest.MonkeyPatch, only: EntryFilter
) -> None:
    monkeypatch.setattr(exporting, "BATCH", 20)
    async with sessions() as session:
        chunks = export_compressed(session, ExportRequest(only=only, start=3))
        assert await taken_slowly(session, chunks) > 4


async def test_whoever_takes_the_proofs_of_a_report_slowly_holds_no_transaction(
    sessions: SessionMaker, large: None
) -> None:
    async with sessions() as session:
        checkpoint = await get_latest_checkpoint(session)
        chunks = export_entries(session, checkpoint, range(0, ENTRIES, 2))
        assert await taken_slowly(session, chunks) > 1


@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_of_large_entries_are_shorter_and_leave_nothing_out(
    sessions: SessionMaker, large: None, monkeypatch: pytest.MonkeyPatch, newest_first: bool
) -> None:
    monkeypatch.setattr(ledger_queries, "MAX_PAGE_BYTES", 50 * ENTRY_BYTES)
    start, end, sizes, found = 0, None, [], []
    async with sessions() as session:
        while True:
            page = await ledger_queries.list_entries(
                session, start=start, end=end, newest_first=newest_first, limit=100
            )
            sizes.append(len(page.items))
            found += [item.leaf_index for item in page.items]
            if page.next_start is None and page.next_end is None:
                break
            start, end = page.next_start or 0, page.next_end
    assert sorted(found, reverse=newest_first) == found
    assert len(found) == len(set(found)) == ENTRIES
    assert 40 < sizes[0] < 60


async def test_a_batch_is_bounded_by_bytes_as_well(
    sessions: SessionMaker, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MOST_BYTES", 5 * ENTRY_BYTES)
    async with sessions() as session:
        found = [lines async for lines in export_lines(session, ExportRequest())]
    assert sum(lines.count(b'"leaf_index"') for lines in found) == ENTRIES
    assert max(lines.count(b'"leaf_index"') for lines in found) <= 6
