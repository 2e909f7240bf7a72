"""What was asked for happens exactly as it was asked for, exactly once, in time."""

import asyncio
import hashlib
from datetime import timedelta
from typing import Any

import pytest
import rfc8785

from tensorguard.services.errors import Invalid, Unready
from tensorguard.services.people import approvals
from tensorguard.services.people.approval import (
    ApprovalKind,
    ApprovalNotFound,
    ApprovalNotPending,
    TooManyApprovals,
    request_digest,
)
from tensorguard.store.ids import new_id
from tests.integration.approvals.builders import KIND, NOW, Office, new_slug

LATE = NOW + timedelta(minutes=15)


def types(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["type"] for entry in entries]


async def test_what_a_second_person_approves_happens_and_both_are_named(office: Office) -> None:
    requester, decider, slug = await office.person(), await office.person(), new_slug()
    approval = await office.ask(requester, slug=slug)
    assert slug not in await office.fleets()
    decided = await office.decide(approval, decider)
    assert (decided.state, decided.result) == ("approved", {"slug": slug})
    ((request, deciders),) = office.done
    assert request == {"slug": slug}
    assert (deciders.requested_by, deciders.approved_by) == (requester.actor, decider.actor)
    assert slug in await office.fleets()
    assert await office.get(approval.id) == decided
    asked, done = await office.told(approval.id)
    assert (asked["type"], asked["actor"]["id"]) == ("approval.requested", requester.actor.id)
    assert asked["details"]["request_sha256"] == approval.request_sha256.hex()
    assert (done["type"], done["actor"]["id"]) == ("approval.approved", decider.actor.id)
    assert done["details"] == {"kind": KIND, "requested_by": requester.actor.id}


async def test_what_a_second_person_rejects_does_not_happen(office: Office) -> None:
    decider, slug = await office.person(), new_slug()
    approval = await office.ask(await office.person(), slug=slug)
    with pytest.raises(Invalid):
        await office.decide(approval, decider, approve=False, reason=" ")
    decided = await office.decide(approval, decider, approve=False, reason="not today")
    assert (decided.state, decided.reason) == ("rejected", "not today")
    assert slug not in await office.fleets()
    assert types(await office.told(approval.id)) == ["approval.requested", "approval.rejected"]
    with pytest.raises(ApprovalNotPending):
        await office.decide(approval, decider)


async def test_approved_by_two_at_the_same_time_it_happens_once(office: Office) -> None:
    requester, slug = await office.person(), new_slug()
    deciders = [await office.person() for _ in range(6)]
    approval = await office.ask(requester, slug=slug)
    answers = await asyncio.gather(
        *(office.decide(approval, one) for one in deciders), return_exceptions=True
    )
    assert len(office.done) == 1
    kinds = sorted(type(answer).__name__ for answer in answers)
    assert kinds == ["Approval"] + ["ApprovalNotPending"] * 5
    assert types(await office.told(approval.id)).count("approval.approved") == 1


async def test_a_refusal_leaves_the_reason_and_nothing_else(office: Office) -> None:
    decider, slug = await office.person(), new_slug()
    approval = await office.ask(await office.person(), slug=slug)
    decided = await office.decide(approval, decider, executor=office.refuse)
    assert (decided.state, decided.reason) == ("failed", "the fleet is gone")
    assert decided.result == {"code": "conflict"}
    assert slug not in await office.fleets()
    *_, told = await office.told(approval.id)
    assert (told["type"], told["outcome"]) == ("approval.failed", "failure")
    assert told["details"]["reason"] == "conflict"
    with pytest.raises(ApprovalNotPending):
        await office.decide(approval, decider)


async def test_a_fault_of_the_program_leaves_it_waiting(office: Office) -> None:
    async def broken(*_: Any) -> dict[str, Any]:
        raise RuntimeError("a bug")

    decider = await office.person()
    approval = await office.ask(await office.person(), slug=new_slug())
    with pytest.raises(RuntimeError):
        await office.decide(approval, decider, executor=broken)
    assert (await office.stored(approval.id)).state == "pending"
    assert (await office.decide(approval, decider)).state == "approved"


async def test_a_kind_that_nothing_carries_out_goes_on_waiting(office: Office) -> None:
    approval = await office.ask(
        await office.person(), kind=ApprovalKind.PUBLISH_TRUST, slug=new_slug()
    )
    with pytest.raises(Unready):
        await office.decide(approval, await office.person())
    assert (await office.stored(approval.id)).state == "pending"


async def test_after_a_quarter_of_an_hour_it_is_expired_and_told_once(office: Office) -> None:
    decider, slug = await office.person(), new_slug()
    approval = await office.ask(await office.person(), slug=slug)
    assert (await office.get(approval.id, now=LATE - timedelta(seconds=1))).state == "pending"
    assert (await office.get(approval.id, now=LATE)).state == "expired"
    assert (await office.stored(approval.id)).state == "pending"
    decided = await office.decide(approval, decider, now=LATE)
    assert (decided.state, decided.decided_by) == ("expired", None)
    assert (await office.stored(approval.id)).state == "expired"
    assert slug not in await office.fleets()
    with pytest.raises(ApprovalNotPending):
        await office.decide(approval, decider, now=LATE)
    async with office.sessions.begin() as session:
        await approvals.expire_approvals(session, now=LATE)
    assert types(await office.told(approval.id)) == ["approval.requested", "approval.expired"]


async def test_upkeep_of_several_processes_expires_each_once(office: Office) -> None:
    requester = await office.person()
    asked = [await office.ask(requester, slug=new_slug()) for _ in range(5)]

    async def chore() -> int:
        async with office.sessions.begin() as session:
            return await approvals.expire_approvals(session, now=LATE)

    assert sum(await asyncio.gather(*(chore() for _ in range(4)))) >= 5
    for approval in asked:
        assert (await office.stored(approval.id)).state == "expired"
        assert types(await office.told(approval.id)).count("approval.expired") == 1


async def test_asking_again_while_it_waits_is_the_same_approval(office: Office) -> None:
    requester, slug = await office.person(), new_slug()
    first = await office.ask(requester, slug=slug)
    again = await asyncio.gather(*(office.ask(requester, slug=slug) for _ in range(4)))
    assert {one.id for one in again} == {first.id}
    assert types(await office.told(first.id)) == ["approval.requested"]
    other = await office.ask(await office.person(), slug=slug)
    assert other.id != first.id


async def test_asking_for_the_first_time_twice_at_once_is_one_approval(office: Office) -> None:
    requester, slug = await office.person(), new_slug()
    asked = await asyncio.gather(*(office.ask(requester, slug=slug) for _ in range(4)))
    assert len({one.id for one in asked}) == 1


async def test_asking_again_after_it_expired_is_a_new_approval(office: Office) -> None:
    requester, slug = await office.person(), new_slug()
    first = await office.ask(requester, slug=slug)
    second = await office.ask(requester, slug=slug, now=LATE)
    assert second.id != first.id
    assert second.expires_at == LATE + timedelta(minutes=15)
    assert types(await office.told(first.id)) == ["approval.requested", "approval.expired"]


@pytest.mark.parametrize(
    "what", ["request", "kind", "fleet", "requester", "time", "digest", "digest too"]
)
async def test_a_row_that_was_changed_in_the_database_is_refused_and_recorded(
    office: Office, what: str
) -> None:
    requester, decider, slug = await office.person(), await office.person(), new_slug()
    approval = await office.ask(requester, slug=slug)
    other = {"slug": new_slug()}
    changes: dict[str, dict[str, Any]] = {
        "request": {"request": other},
        "kind": {"kind": ApprovalKind.REGISTER_PUBLISHER},
        "fleet": {"fleet": "hospital-b"},
        "requester": {"requested_by": str(new_id())},
        "time": {"expires_at": LATE + timedelta(days=1)},
        "digest": {"request_sha256": bytes(32)},
        "digest too": {"request": other, "request_sha256": request_digest(KIND, None, other)},
    }
    await office.tamper(approval, **changes[what])
    decided = await office.decide(approval, decider)
    assert decided.state == "failed"
    assert decided.reason is not None
    assert "not the one" in decided.reason
    assert office.done == []
    assert not {slug, other["slug"]} & await office.fleets()
    *_, told = await office.told(approval.id)
    assert (told["type"], told["details"]["reason"]) == ("approval.failed", "approval-changed")


async def test_the_requester_cannot_become_the_decider_by_changing_the_row(
    office: Office,
) -> None:
    requester, other = await office.person(), await office.person()
    approval = await office.ask(requester, slug=new_slug())
    await office.tamper(approval, requested_by=other.actor.id)
    assert (await office.decide(approval, requester)).state == "failed"
    assert office.done == []


async def test_the_digest_is_of_the_canonical_json_of_all_that_was_asked_for() -> None:
    request = {"b": 1, "a": ["ä", None, True]}
    expected = rfc8785.dumps({"kind": str(KIND), "fleet": "f", "request": request})
    assert request_digest(KIND, "f", request) == hashlib.sha256(expected).digest()
    assert request_digest(KIND, "f", {"a": ["ä", None, True], "b": 1}) == request_digest(
        KIND, "f", request
    )
    assert request_digest(KIND, None, request) != request_digest(KIND, "f", request)


@pytest.mark.parametrize(
    "value",
    ["\x00", "\ud800", 2**53, 1.5, "x" * 300_000, [[[[[[[[1]]]]]]]]],
    ids=["NUL", "half a surrogate", "a large number", "a float", "300 kB", "too deep"],
)
async def test_what_json_or_the_database_cannot_hold_exactly_is_not_asked_for(
    office: Office, value: Any
) -> None:
    with pytest.raises(Invalid):
        await office.ask(await office.person(), slug=new_slug(), value=value)


async def test_what_waits_of_one_requester_is_bounded(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "MAX_PENDING", 3)
    requester = await office.person()
    for _ in range(3):
        await office.ask(requester, slug=new_slug())
    with pytest.raises(TooManyApprovals):
        await office.ask(requester, slug=new_slug())
    await office.ask(await office.person(), slug=new_slug())


async def test_approvals_are_listed_by_what_they_are_now(office: Office) -> None:
    requester, decider = await office.person(), await office.person()
    first = await office.ask(requester, slug=new_slug(), now=NOW - timedelta(minutes=14))
    second = await office.ask(requester, slug=new_slug())
    await office.decide(second, decider)
    third = await office.ask(requester, slug=new_slug())
    mine = {first.id, second.id, third.id}

    async def listed(state: Any, minutes: int = 0) -> list[Any]:
        async with office.sessions() as session:
            now = NOW + timedelta(minutes=minutes)
            rows = await approvals.list_approvals(session, now=now, state=state, limit=500)
        assert all(state in (None, row.state) for row in rows)
        return [row.id for row in rows if row.id in mine]

    assert await listed(None) == [third.id, second.id, first.id]
    assert await listed("pending") == [third.id, first.id]
    assert await listed("expired") == []
    assert await listed("pending", minutes=2) == [third.id]
    assert await listed("expired", minutes=2) == [first.id]
    assert await listed("approved") == [second.id]


async def test_an_approval_that_never_was_cannot_be_decided(office: Office) -> None:
    approval = await office.ask(await office.person(), slug=new_slug())
    unknown = new_id()
    async with office.sessions() as session:
        with pytest.raises(ApprovalNotFound):
            await approvals.get_approval(session, unknown, now=NOW)
        with pytest.raises(ApprovalNotFound):
            await approvals.decide(
                session,
                unknown,
                approve=True,
                reason=None,
                by=await office.person(),
                executors={},
                now=NOW,
            )
    assert (await office.get(approval.id)).state == "pending"
