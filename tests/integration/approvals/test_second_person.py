"""Who may decide what somebody else asked for: each rule by itself."""

from datetime import timedelta

import pytest

from tensorguard.services.errors import Denied
from tensorguard.services.people import approvals, users
from tensorguard.services.people.access import Permission, Role
from tensorguard.services.people.approval import PERMISSIONS, ApprovalKind
from tensorguard.services.people.second_factor import (
    PersonRequired,
    SecondFactorMissing,
    StepUpRequired,
)
from tensorguard.services.people.second_person import MayNotDecide, NotASecondPerson
from tests.integration.approvals.builders import MACHINE, NOW, Caller, Office, new_slug

HOUR_AGO = NOW - timedelta(hours=1)
JUST_WITHIN = NOW - timedelta(hours=24) + timedelta(seconds=1)
A_DAY_AGO = NOW - timedelta(hours=24)


async def refused(office: Office, by: Caller, decider: Caller, why: type[Denied]) -> None:
    """Neither approving nor rejecting is possible, and it goes on waiting."""
    approval = await office.ask(by, slug=new_slug())
    for approve in (True, False):
        with pytest.raises(why):
            await office.decide(approval, decider, approve=approve, reason="no")
    assert office.done == []
    assert (await office.get(approval.id)).state == "pending"


async def approved(office: Office, by: Caller, decider: Caller) -> None:
    approval = await office.ask(by, slug=new_slug())
    assert (await office.decide(approval, decider)).state == "approved"


async def test_another_person_decides(office: Office) -> None:
    await approved(office, await office.person(), await office.person())


async def test_the_requester_does_not_decide(office: Office) -> None:
    requester = await office.person()
    await refused(office, requester, requester, NotASecondPerson)


async def test_an_api_key_does_not_decide(office: Office) -> None:
    await refused(office, await office.person(), await office.key(), PersonRequired)


async def test_the_key_that_asked_does_not_decide(office: Office) -> None:
    key = await office.key()
    await refused(office, key, key, PersonRequired)


async def test_whoever_made_the_key_that_asked_does_not_decide(office: Office) -> None:
    maker = await office.person()
    await refused(office, await office.key(maker), maker, NotASecondPerson)


async def test_whoever_made_the_key_that_made_the_key_that_asked_does_not_decide(
    office: Office,
) -> None:
    maker = await office.person()
    key = await office.key(await office.key(maker))
    await refused(office, key, maker, NotASecondPerson)


async def test_another_person_decides_about_a_keys_request(office: Office) -> None:
    key = await office.key(await office.person())
    await approved(office, key, await office.person())


@pytest.mark.parametrize("made_at", [HOUR_AGO, JUST_WITHIN])
async def test_an_account_that_the_requester_made_today_does_not_decide(
    office: Office, made_at: object
) -> None:
    requester = await office.person()
    puppet = await office.person(created_by=requester.actor.id, created_at=made_at)
    await refused(office, requester, puppet, NotASecondPerson)


async def test_an_account_that_the_requester_made_a_day_ago_decides(office: Office) -> None:
    requester = await office.person()
    colleague = await office.person(created_by=requester.actor.id, created_at=A_DAY_AGO)
    await approved(office, requester, colleague)


async def test_an_account_that_the_requesters_key_made_today_does_not_decide(
    office: Office,
) -> None:
    requester = await office.person()
    key = await office.key(requester)
    puppet = await office.person(created_by=key.actor.id, created_at=HOUR_AGO)
    await refused(office, requester, puppet, NotASecondPerson)


async def test_an_account_made_today_by_an_account_that_the_requester_made_today_does_not_decide(
    office: Office,
) -> None:
    requester = await office.person()
    first = await office.person(created_by=requester.actor.id, created_at=HOUR_AGO)
    second = await office.person(created_by=first.actor.id, created_at=HOUR_AGO)
    await refused(office, requester, second, NotASecondPerson)


async def test_nobody_approves_what_an_account_asks_for_that_they_made_today(
    office: Office,
) -> None:
    decider = await office.person()
    puppet = await office.person(created_by=decider.actor.id, created_at=HOUR_AGO)
    await refused(office, puppet, decider, NotASecondPerson)


async def test_two_accounts_that_one_person_made_today_are_no_two_persons(office: Office) -> None:
    maker = await office.person()
    first, second = [
        await office.person(created_by=maker.actor.id, created_at=HOUR_AGO) for _ in range(2)
    ]
    await refused(office, first, second, NotASecondPerson)


async def test_two_accounts_made_today_on_the_machine_are_two_persons(office: Office) -> None:
    first, second = [
        await office.person(created_by=MACHINE.id, created_at=HOUR_AGO) for _ in range(2)
    ]
    await approved(office, first, second)


@pytest.mark.parametrize(
    ("by", "at"),
    [("password_reset_by", "password_changed_at"), ("totp_reset_by", "totp_reset_at")],
    ids=["password", "second factor"],
)
async def test_an_account_whose_proofs_the_requester_has_reset_today_does_not_decide(
    office: Office, by: str, at: str
) -> None:
    requester = await office.person()
    taken_over = await office.person(**{by: requester.actor.id, at: JUST_WITHIN})
    await refused(office, requester, taken_over, NotASecondPerson)
    long_ago = await office.person(**{by: requester.actor.id, at: A_DAY_AGO})
    await approved(office, requester, long_ago)


async def test_resetting_a_password_is_written_down_for_the_second_person_rule(
    office: Office,
) -> None:
    requester, other = await office.person(), await office.person()
    assert other.user_id is not None
    async with office.sessions.begin() as session:
        await users.reset_password(
            session, other.user_id, password_hash="x", by=requester.actor, now=HOUR_AGO
        )
    # The reset has ended the sessions; the row alone decides here.
    async with office.sessions() as session:
        approval = await office.ask(requester, slug=new_slug())
        with pytest.raises(NotASecondPerson):
            await approvals.decide(
                session, approval.id, approve=True, reason=None, by=other, executors={}, now=NOW
            )


@pytest.mark.parametrize("role", [Role.VIEWER, Role.MLOPS])
async def test_a_role_that_decides_nothing_does_not_decide(office: Office, role: Role) -> None:
    await refused(office, await office.person(), await office.person(role), MayNotDecide)


async def test_a_role_without_the_kinds_permission_does_not_decide(office: Office) -> None:
    compliance = await office.person(Role.COMPLIANCE)
    assert compliance.may(Permission.APPROVALS_DECIDE)
    await refused(office, await office.person(), compliance, MayNotDecide)


def test_every_kind_has_a_permission_that_its_decider_needs() -> None:
    assert set(PERMISSIONS) == set(ApprovalKind)


async def test_a_session_that_has_not_stepped_up_does_not_decide(office: Office) -> None:
    decider = await office.person(stepped_up=False)
    await refused(office, await office.person(), decider, StepUpRequired)


async def test_a_session_whose_step_up_is_over_does_not_decide(office: Office) -> None:
    requester, decider = await office.person(), await office.person()
    late = NOW + timedelta(hours=1)
    approval = await office.ask(requester, slug=new_slug(), now=late)
    with pytest.raises(StepUpRequired):
        await office.decide(approval, decider, now=late)


async def test_somebody_without_a_second_factor_does_not_decide(office: Office) -> None:
    decider = await office.person(totp_confirmed_at=None)
    await refused(office, await office.person(), decider, SecondFactorMissing)


async def test_somebody_who_was_disabled_does_not_decide(office: Office) -> None:
    decider = await office.person(disabled_at=NOW)
    await refused(office, await office.person(), decider, PersonRequired)


async def test_somebody_elses_session_does_not_decide(office: Office) -> None:
    requester, decider = await office.person(), await office.person()
    borrowed = Caller(decider.actor, Role.ADMIN, decider.user_id, requester.session_sha256)
    await refused(office, requester, borrowed, PersonRequired)
