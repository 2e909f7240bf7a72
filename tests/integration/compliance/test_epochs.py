"""A report over a restore: two epochs of the ledger, each with its checkpoint, keys and proofs."""

import base64
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
import sqlalchemy as sa

from api.compliance import page
from api.compliance.report_views import report_view
from api.compliance.reports import _json as json_of
from api.compliance.reports import _page as page_of
from api.context import ApiContext
from api.turns import Turns
from tensorguard.ledger.checkpoint import VerifierKey, ledger_origin
from tensorguard.ledger.verify import Progress, Verdict, read_key, verify
from tensorguard.services.compliance.report import Report, make_report
from tensorguard.services.evidence.epochs import begin_epoch
from tensorguard.services.evidence.event import SYSTEM, Actor
from tensorguard.services.people.access import Caller, Role
from tensorguard.store import tables
from tests.integration.compliance.builders import confirmed, enrolled, revoked
from tests.integration.compliance.conftest import SINCE, UNTIL, Quarter
from tests.integration.ledger.builders import SIGNER, TRUST_DOMAIN, now

ADMIN = Caller(Actor("user", str(uuid4())), Role.ADMIN)


@pytest.fixture
async def restored(quarter: Quarter) -> Quarter:
    """A period whose revocation was in one epoch, and confirmed in the next."""
    async with quarter.sessions.begin() as session:
        await session.execute(sa.update(tables.platform).values(trust_domain=TRUST_DOMAIN))
    fleet = await quarter.fleet("a")
    lost, early = uuid4(), uuid4()
    await quarter.record(*(enrolled(fleet, uuid4()) for _ in range(4)), revoked(fleet, lost, 1))
    await quarter.record(revoked(fleet, early, 2), confirmed(fleet, early, 2, front=7))
    await quarter.sign()
    async with quarter.sessions.begin() as session:
        await begin_epoch(session, reason="disk", last_note=None, by=SYSTEM, now=SINCE)
    await quarter.record(confirmed(fleet, lost, 1, front=41), enrolled(fleet, uuid4()))
    await quarter.sign()
    return quarter


async def report_of(quarter: Quarter) -> Report:
    async with quarter.sessions.begin() as session:
        return await make_report(
            session,
            fleet="a",
            since=SINCE,
            until=UNTIL,
            trust_domain=TRUST_DOMAIN,
            caller=ADMIN,
            now=now(),
        )


def verified(path: Path, content: str, epoch: int) -> Verdict:
    path.write_bytes(base64.b64decode(content, validate=True))
    key = str(VerifierKey(ledger_origin(TRUST_DOMAIN, epoch), SIGNER.public_key()))
    return verify(str(path), [read_key(key)], None, Progress(sys.stderr, wanted=False))


async def test_a_report_over_two_epochs_counts_both_and_proves_each(
    restored: Quarter, tmp_path: Path
) -> None:
    report = await report_of(restored)
    assert (report.numbers.enrolled, report.numbers.revoked) == (5, 2)
    assert report.numbers.revocations_confirmed == 2
    assert (report.revocation_times.median_ms, report.revocation_times.p99_ms) == (7, 41)
    receipts = {place: one.epoch for place, one in report.receipts.items()}
    assert receipts == {(1, 4): 2, (1, 5): 1}  # where each revocation is: where its receipt is
    assert report.listed_indexes() == {1: list(range(7)), 2: [0, 1, 2]}

    context = cast(ApiContext, SimpleNamespace(sessions=restored.sessions, exports=Turns(2)))
    view = report_view(report)
    chunks = [chunk async for chunk in json_of(context, report, view)]
    found: dict[str, Any] = json.loads(b"".join(chunks))
    assert [one["epoch"] for one in found["checkpoints"]] == [1, 2]
    evidence = {one["epoch"]: one for one in found["evidence"]}
    assert [evidence[epoch]["entries"] for epoch in (1, 2)] == [7, 3]
    for epoch in (1, 2):
        verdict = verified(tmp_path / "own", evidence[epoch]["content"], epoch)
        assert (verdict.problem, verdict.entries) == (None, evidence[epoch]["entries"])
        # The key and the name of one epoch verify nothing of the other.
        assert verified(tmp_path / "other", evidence[epoch]["content"], 3 - epoch).problem


async def test_the_page_of_two_epochs_says_of_which_each_place_is_and_how_to_get_the_rest(
    restored: Quarter,
) -> None:
    report = await report_of(restored)
    view = report_view(report)
    context = cast(ApiContext, SimpleNamespace(sessions=restored.sessions, exports=Turns(2)))
    text = b"".join([chunk async for chunk in page_of(context, report, view)]).decode()
    for epoch in (1, 2):
        assert f"tensorguard ledger verify {page.evidence_name(view, epoch)} " in text
        assert f"/api/v1/ledger/export?epoch={epoch}&amp;fleet=a" in text
    assert "<bdi>41 ms</bdi></td><td><bdi>front 41 ms</bdi>" in text.replace(' class="short"', "")
    assert "<bdi>2/1</bdi>" in text  # the receipt's place, and its entry's
    assert "Of 2 complete receipts half came within 7 ms of the order, 99 % within 41 ms" in text
