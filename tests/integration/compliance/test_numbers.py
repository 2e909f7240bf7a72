"""The numbers of a period: exactly its entries, of the fleet that they were of at that time."""

from datetime import timedelta
from uuid import uuid4

import pytest

from tensorguard.services.compliance.listing import MOST_LISTED, list_sections
from tensorguard.services.compliance.period import LONGEST, open_scope
from tensorguard.services.errors import FleetNotFound, Invalid
from tensorguard.services.evidence.event import SYSTEM
from tensorguard.services.evidence.events import (
    AgentMoved,
    DeploymentCreated,
    DeploymentStarted,
    Event,
    GrantDenied,
    GrantIssued,
    KekRotated,
    PublisherRevoked,
    SessionFailed,
    SessionSignedIn,
)
from tests.integration.compliance.builders import HUB, denied, enrolled, renewed, reported
from tests.integration.compliance.conftest import SINCE, UNTIL, Quarter
from tests.integration.ledger.builders import now

MICRO = timedelta(microseconds=1)


async def test_a_period_holds_its_first_moment_and_not_its_end(quarter: Quarter) -> None:
    fleet = await quarter.fleet("a")
    await quarter.record(enrolled(fleet, uuid4()), at=SINCE - MICRO)
    await quarter.sign()  # without a checkpoint there is nothing to report
    for at in (SINCE, UNTIL - MICRO, UNTIL):
        await quarter.record(enrolled(fleet, uuid4()), at=at)
    assert await quarter.numbers(fleet) == {"unsigned": 2}
    await quarter.sign()
    assert await quarter.numbers(fleet) == {"entries": 2, "enrolled": 2}
    summary = await quarter.summary(fleet)
    async with quarter.sessions() as session:
        (section,) = await list_sections(session, summary.scope, summary.types)
    assert [one.time for one in section.listed] == [UNTIL - MICRO, SINCE]
    assert [one.leaf_index for one in section.listed] == [2, 1]


async def test_numbers_are_those_of_the_fleet_and_of_the_whole_platform(quarter: Quarter) -> None:
    fleet, other = await quarter.fleet("a"), await quarter.fleet("a-b")
    agent, moved, elsewhere = uuid4(), uuid4(), uuid4()
    request, digest = uuid4(), "ab" * 32
    both, others = quarter.deployment(fleet, other), quarter.deployment(other)
    events: list[Event] = [
        *(enrolled(fleet, uuid4()) for _ in range(3)),
        enrolled(other, uuid4()),
        # Seen in the fleet, moved away, and seen where it is now.
        denied(fleet, moved, 5),
        AgentMoved(by=SYSTEM, fleet=other, agent_id=moved, from_fleet=fleet),
        denied(other, moved, 11),
        AgentMoved(by=SYSTEM, fleet=fleet, agent_id=elsewhere, from_fleet=other),
        GrantIssued(
            by=HUB,
            fleet=fleet,
            agent_id=agent,
            request_id=request,
            package_digest=digest,
            kid="k",
            expires_at=now(),
        ),
        GrantDenied(
            by=HUB,
            fleet=fleet,
            agent_id=agent,
            request_id=request,
            package_digest=digest,
            reason="revoked",
        ),
        reported(fleet, agent, "model.decrypted"),
        reported(fleet, agent, "decryption.failed"),
        reported(other, agent, "decryption.failed"),
        KekRotated(by=SYSTEM, kek_id=uuid4(), version="2", before="1"),
        KekRotated(by=SYSTEM, fleet=other, kek_id=uuid4(), version="2", before="1"),
        SessionFailed(by=SYSTEM, user_id=None, reason="password", count=40),
        SessionSignedIn(by=SYSTEM, user_id=uuid4(), session_id=uuid4()),
        PublisherRevoked(by=SYSTEM, kid="ab", reason="gone"),
        # Of two fleets, and of another one: neither entry names one.
        DeploymentCreated(
            by=SYSTEM,
            deployment_id=both,
            fleets=[fleet, other],
            release_id=uuid4(),
            package_digest=digest,
        ),
        DeploymentStarted(by=SYSTEM, deployment_id=both),
        DeploymentStarted(by=SYSTEM, deployment_id=others),
    ]
    await quarter.record(*events)
    await quarter.sign()
    of_platform = {"sign_ins_failed": 40, "sign_ins": 1, "changes": 1}
    assert await quarter.numbers(fleet) == of_platform | {
        "entries": 16,
        "enrolled": 3,
        "violations": 5,
        "moved_in": 1,
        "moved_away": 1,
        "grants_issued": 1,
        "grants_denied": 1,
        "decryptions": 1,
        "decryption_failures": 1,
        "kek_rotations": 1,
        "deployments_started": 1,
    }
    assert await quarter.numbers(other) == of_platform | {
        "entries": 13,
        "enrolled": 1,
        "violations": 11,
        "moved_in": 1,
        "moved_away": 1,
        "decryption_failures": 1,
        "kek_rotations": 2,
        "deployments_started": 2,
    }
    whole = await quarter.numbers()
    assert (whole["entries"], whole["enrolled"], whole["violations"]) == (len(events), 4, 16)
    assert (whole["moved_in"], "moved_away" in whole) == (2, False)


async def test_sections_hold_every_entry_once_and_say_what_they_leave_out(
    quarter: Quarter,
) -> None:
    fleet = await quarter.fleet("a")
    routine = [renewed(fleet, uuid4()) for _ in range(MOST_LISTED)]
    rare = [enrolled(fleet, uuid4()) for _ in range(5)]
    # The routine ones are newer, and do not push the others out.
    await quarter.record(*rare, at=SINCE)
    await quarter.record(*routine, reported(fleet, uuid4(), "started"), at=SINCE + MICRO)
    await quarter.sign()
    summary = await quarter.summary(fleet)
    async with quarter.sessions() as session:
        found = await list_sections(session, summary.scope, summary.types)
    sections = {one.name: one for one in found}
    assert set(sections) == {"enrollment", "other"}
    enrollment, other = sections["enrollment"], sections["other"]
    assert (enrollment.entries, enrollment.left_out) == (MOST_LISTED + 5, 5)
    assert [one.type for one in enrollment.listed].count("agent.enrolled") == 5
    assert (other.entries, other.left_out, other.listed) == (1, 1, [])
    assert sum(one.entries for one in found) == summary.numbers.entries


async def test_an_entry_that_somebody_has_damaged_ends_no_report(quarter: Quarter) -> None:
    fleet = await quarter.fleet("a")
    await quarter.record(denied(fleet, uuid4(), 7), enrolled(fleet, uuid4()))
    await quarter.sign()
    damage = "UPDATE ledger_events SET entry = %s WHERE type = %s"
    quarter.as_superuser(damage, (b'\xff\xfe{"count"', "agent.denied"))
    quarter.as_superuser(damage, (b'{"details": [1]}', "agent.enrolled"))
    summary = await quarter.summary(fleet)
    async with quarter.sessions() as session:
        found = await list_sections(session, summary.scope, summary.types)
    assert {one.details for section in found for one in section.listed} == {None}
    assert (summary.numbers.violations, summary.numbers.enrolled) == (1, 1)


async def test_what_cannot_be_reported_is_refused(quarter: Quarter) -> None:
    await quarter.record(enrolled(await quarter.fleet("a"), uuid4()))
    await quarter.sign()
    async with quarter.sessions() as session:
        for since, until in ((UNTIL, SINCE), (SINCE, SINCE), (UNTIL - LONGEST - MICRO, UNTIL)):
            with pytest.raises(Invalid):
                await open_scope(session, fleet=None, since=since, until=until, now=now())
        with pytest.raises(FleetNotFound):
            await open_scope(session, fleet="b", since=SINCE, until=UNTIL, now=now())
