"""Receipts of revocations, and the entries of a report with their proofs."""

import sys
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from tensorguard.ledger.verify import Progress, Verdict, read_key, verify
from tensorguard.services.compliance.listing import find_receipts, list_sections
from tensorguard.services.compliance.proofs import export_entries
from tensorguard.services.evidence.events import (
    AgentRevocationPartial,
    FleetRevocationConfirmed,
    FleetRevoked,
)
from tests.integration.compliance.builders import HUB, confirmed, enrolled, revoked
from tests.integration.compliance.conftest import UNTIL, Quarter
from tests.integration.ledger.builders import KEY

LATER = UNTIL + timedelta(seconds=1)


async def test_each_revocation_has_its_own_receipt_also_one_that_came_after_the_period(
    quarter: Quarter,
) -> None:
    fleet = await quarter.fleet("a")
    lost, stolen, silent, one, two = [uuid4() for _ in range(5)]
    with_fleet = uuid4()
    await quarter.record(
        revoked(fleet, lost, 1),
        AgentRevocationPartial(
            by=HUB,
            fleet=fleet,
            agent_id=lost,
            seq=1,
            fronts_ms={"front-1": 3},
            disconnected=0,
            waiting_for=["front-2"],
            not_answering=[],
        ),
        revoked(fleet, stolen, 2),
        revoked(fleet, silent, 3),
        *(revoked(fleet, each, None, fleet_revocation_id=with_fleet) for each in (one, two)),
        FleetRevoked(
            by=HUB,
            fleet=fleet,
            revocation_id=with_fleet,
            reason="stolen",
            approved_by=None,
            agents=2,
            rejected=0,
            tokens=0,
            manufacturer_cas=0,
            first_seq=4,
            last_seq=5,
        ),
        # Of another order about the same agent.
        confirmed(fleet, silent, 1, **{"front-1": 1}),
    )
    await quarter.record(
        confirmed(fleet, lost, 1, **{"front-1": 3, "front-2": 12_000}),
        confirmed(fleet, stolen, 2, **{"front-1": 8, "front-2": 5}),
        FleetRevocationConfirmed(
            by=HUB,
            fleet=fleet,
            revocation_id=with_fleet,
            agents=2,
            fronts_ms={"front-1": 40},
            disconnected=2,
        ),
        at=LATER,
    )
    await quarter.sign()
    summary = await quarter.summary(fleet)
    async with quarter.sessions() as session:
        (section,) = await list_sections(session, summary.scope, summary.types)
        receipts = await find_receipts(session, summary.scope, section.listed)
    told = {
        listed.subject_id: receipts.get((listed.epoch, listed.leaf_index))
        for listed in section.listed
        if listed.type in ("agent.revoked", "fleet.revoked")
    }
    assert told.pop(str(silent)) is None
    took = {
        subject: receipt and (receipt.is_complete, receipt.took_ms)
        for subject, receipt in told.items()
    }
    assert took == {
        str(lost): (True, 12_000),
        str(stolen): (True, 8),
        str(one): (True, 40),
        str(two): (True, 40),
        fleet: (True, 40),
    }
    assert summary.numbers.revoked == 5
    assert (summary.numbers.revocations_confirmed, summary.numbers.revocations_partial) == (1, 1)


async def test_the_listed_entries_verify_in_their_places_and_one_bit_more_does_not(
    quarter: Quarter, tmp_path: Path
) -> None:
    fleet = await quarter.fleet("a")
    await quarter.record(*(enrolled(fleet, uuid4()) for _ in range(700)))
    await quarter.sign()
    scope = (await quarter.summary(fleet)).scope
    # Neighbours, the first, the last, and more than are read at once.
    wanted = sorted({0, 1, 2, 699, *range(100, 400, 2)})
    for name, indexes in (("some", wanted), ("none", []), ("all", list(range(700)))):
        path = tmp_path / name
        async with quarter.sessions() as session:
            chunks = [part async for part in export_entries(session, scope.checkpoints[1], indexes)]
        path.write_bytes(b"".join(chunks))
        verdict = verified(path)
        assert (verdict.problem, verdict.entries) == (None, len(indexes))
        if indexes:
            assert (verdict.first_index, verdict.last_index) == (indexes[0], indexes[-1])
    quarter.as_superuser(
        "UPDATE ledger_events SET entry = set_byte(entry, 20, 65) FROM ledger_entries"
        " WHERE event_id = ledger_events.id AND leaf_index = 300"
    )
    async with quarter.sessions() as session:
        chunks = [part async for part in export_entries(session, scope.checkpoints[1], wanted)]
    (tmp_path / "damaged").write_bytes(b"".join(chunks))
    verdict = verified(tmp_path / "damaged")
    assert verdict.problem is not None
    assert verdict.first_bad_index is not None
    assert verdict.last_bad_index is not None
    assert verdict.first_bad_index <= 300 <= verdict.last_bad_index


def verified(path: Path) -> Verdict:
    return verify(str(path), [read_key(str(KEY))], None, Progress(sys.stderr, wanted=False))
