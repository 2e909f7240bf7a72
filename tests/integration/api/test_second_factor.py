"""Codes of an authenticator app: which count, how often, and what they are good for."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa

from api.attempts import FREE_FOR_ACCOUNT
from api.context import ApiContext, utc_now
from tensorguard.services.people.access import Role
from tensorguard.store import tables
from tests.integration.api.clients import Api
from tests.integration.api.people import (
    FACTOR,
    SESSION,
    MovingClock,
    new_person,
    second_person,
)


@pytest.fixture
def clock() -> MovingClock:
    return MovingClock(utc_now())


@pytest.fixture
async def api(context: ApiContext, clock: MovingClock) -> AsyncIterator[Api]:
    """The people's application, on a clock that the test moves."""
    async with Api(dataclasses.replace(context, clock=clock)) as api:
        yield api


async def test_an_app_is_set_up_with_the_password_and_confirmed_with_its_code(api: Api) -> None:
    person = await new_person(api, Role.VIEWER)
    assert (await person.session())["second_factor"] == "none"
    made = await person.enrol()
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    uri = urlsplit(made.json()["uri"])
    assert parse_qs(uri.query)["secret"] == [made.json()["secret"]]
    pending = await person.session()
    assert (pending["second_factor"], pending["stepped_up_until"]) == ("pending", None)
    confirmed = await person.post(f"{FACTOR}/confirm", code=person.code())
    assert confirmed.status_code == 200
    assert confirmed.json()["second_factor"] == "active"
    session = await person.session()
    assert session["second_factor"] == "active"
    assert session["stepped_up_until"] == confirmed.json()["stepped_up_until"]
    again = await person.enrol()
    assert (again.status_code, again.json()["code"]) == (409, "second-factor-active")
    twice = await person.post(f"{FACTOR}/confirm", code=person.code(steps=1))
    assert (twice.status_code, twice.json()["code"]) == (409, "second-factor-active")
    for event in ("second-factor.begun", "second-factor.confirmed", "session.stepped-up"):
        assert len(await api.events(event, subject=person.id)) == 1


async def test_the_secret_is_sealed_and_told_nowhere(api: Api) -> None:
    person = await new_person(api)
    made = (await person.enrol()).json()
    names = ("users", "secrets", "sessions", "idempotency_keys", "ledger_events")
    dumped = await api.dump(*names)
    assert f"totp:{person.id}" in dumped
    assert made["secret"] not in dumped
    assert str(person.secret)[2:-1] not in dumped


async def test_a_pending_app_is_replaced_by_setting_up_again(api: Api) -> None:
    person = await new_person(api)
    await person.enrol()
    old = person.code()
    await person.enrol()
    refused = await person.post(f"{FACTOR}/confirm", code=old)
    assert (refused.status_code, refused.json()["code"]) == (403, "wrong-code")
    assert (await person.post(f"{FACTOR}/confirm", code=person.code())).status_code == 200


async def test_a_code_counts_once(api: Api, clock: MovingClock) -> None:
    person = await second_person(api)
    refused = await person.step_up(person.code())
    assert (refused.status_code, refused.json()["code"]) == (403, "wrong-code")
    clock.advance(seconds=30)
    code = person.code()
    answers = await asyncio.gather(*(person.step_up(code) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403]
    again = await person.step_up(code)
    assert (again.status_code, again.json()["code"]) == (403, "wrong-code")


async def test_a_code_that_was_passed_over_counts_no_more(api: Api, clock: MovingClock) -> None:
    person = await second_person(api)
    clock.advance(minutes=5)
    passed_over = person.code()
    assert (await person.step_up(person.code(steps=1))).status_code == 200
    assert (await person.step_up(passed_over)).json()["code"] == "wrong-code"


async def test_a_code_of_another_user_does_not_count(api: Api, clock: MovingClock) -> None:
    first, second = await second_person(api), await second_person(api)
    clock.advance(minutes=1)
    refused = await first.step_up(second.code())
    assert (refused.status_code, refused.json()["code"]) == (403, "wrong-code")
    assert (await second.step_up(second.code())).status_code == 200


async def test_another_users_sealed_secret_does_not_open(api: Api, clock: MovingClock) -> None:
    first, second = await second_person(api), await second_person(api)
    clock.advance(minutes=1)
    table = tables.secrets
    async with api.context.sessions.begin() as session:
        # Whoever can write to the database puts their own secret in another's place.
        row = (
            await session.execute(sa.select(table).where(table.c.id == f"totp:{first.id}"))
        ).one()
        values = {**row._mapping, "id": f"totp:{second.id}", "owner": second.id}
        await session.execute(
            sa.update(table).where(table.c.id == f"totp:{second.id}").values(values)
        )
    refused = await second.step_up(first.code())
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong-context")
    assert (await second.session())["second_factor"] == "active"


async def test_stepping_up_lasts_ten_minutes_and_only_for_this_session(
    api: Api, clock: MovingClock
) -> None:
    person = await second_person(api)
    reject = "/api/v1/approvals/00000000-0000-0000-0000-000000000000/reject"
    assert (await person.post(reject, reason="x")).status_code == 404
    elsewhere = await api.client()
    await elsewhere.post(SESSION, json={"email": person.email, "password": person.password})
    refused = await elsewhere.post(reject, json={"reason": "x"})
    assert (refused.status_code, refused.json()["code"]) == (403, "step-up-required")
    assert "step-up" in refused.json()["hint"]
    clock.advance(minutes=10)
    assert (await person.post(reject, reason="x")).json()["code"] == "step-up-required"
    assert (await person.session())["stepped_up_until"] is None
    stepped_up = await person.step_up(person.code())
    assert stepped_up.json()["stepped_up_until"] == (await person.session())["stepped_up_until"]
    assert (await person.post(reject, reason="x")).status_code == 404


async def test_who_has_no_second_factor_is_told_to_set_one_up(api: Api) -> None:
    person = await new_person(api)
    for _ in range(2):
        answer = await person.post(
            "/api/v1/approvals/00000000-0000-0000-0000-000000000000/reject", reason="x"
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "second-factor-missing")
        assert "authenticator" in answer.json()["hint"]
        assert (await person.step_up("123456")).json()["code"] == "second-factor-missing"
        await person.enrol()  # a pending one counts for nothing


async def test_an_api_key_has_no_second_factor(api: Api) -> None:
    for method, url, body in (
        ("POST", FACTOR, {"password": "x"}),
        ("POST", f"{FACTOR}/confirm", {"code": "123456"}),
        ("DELETE", FACTOR, {"code": "123456"}),
        ("POST", f"{SESSION}/step-up", {"code": "123456"}),
    ):
        answer = await api.admin.request(method, url, json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "person-required")
    shown = (await api.admin.get(SESSION)).json()
    assert (shown["second_factor"], shown["stepped_up_until"]) == ("none", None)


async def test_guessing_codes_has_to_wait_wherever_it_comes_from(
    api: Api, clock: MovingClock
) -> None:
    person = await second_person(api)
    clock.advance(minutes=1)
    wrong = f"{(int(person.code()) + 1) % 1_000_000:06}"
    # Many at the same time get no more tries than one after the other.
    answers = await asyncio.gather(*(person.step_up(wrong) for _ in range(20)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [403] * FREE_FOR_ACCOUNT + [429] * (20 - FREE_FOR_ACCOUNT)
    blocked = await person.step_up(person.code())
    assert blocked.status_code == 429
    assert int(blocked.headers["retry-after"]) >= 1
    for method, url in (("POST", f"{FACTOR}/confirm"), ("DELETE", FACTOR)):
        other = await person.client.request(method, url, json={"code": person.code()})
        assert other.status_code == 429
    # The password gives no new tries at the code.
    assert (await person.enrol()).json()["code"] == "second-factor-active"
    assert (await person.step_up(person.code())).status_code == 429
    assert len(await api.events("second-factor.failed", subject=person.id)) == 1
    await api.context.denials.flush(all_of_them=True)
    counts = [one["count"] for one in await api.events("second-factor.failed", subject=person.id)]
    assert sum(counts) == FREE_FOR_ACCOUNT
    other = await second_person(api)
    clock.advance(seconds=30)
    assert (await other.step_up(other.code())).status_code == 200
    assert (await person.step_up(person.code())).status_code == 200


async def test_a_stolen_session_without_the_password_cannot_set_up_an_app(api: Api) -> None:
    person = await new_person(api)
    person.password += "x"
    for _ in range(FREE_FOR_ACCOUNT):
        refused = await person.enrol()
        assert (refused.status_code, refused.json()["code"]) == (403, "wrong-password")
    assert (await person.enrol()).status_code == 429
    assert (await person.session())["second_factor"] == "none"
    told = await api.events("second-factor.failed", subject=person.id)
    assert [one["reason"] for one in told] == ["wrong-password"]


async def test_an_app_is_removed_with_its_code_and_every_session_is_stepped_down(
    api: Api, clock: MovingClock
) -> None:
    person = await second_person(api)
    assert (await person.remove("000000")).json()["code"] == "wrong-code"
    clock.advance(seconds=30)
    assert (await person.remove(person.code())).status_code == 204
    session = await person.session()
    assert (session["second_factor"], session["stepped_up_until"]) == ("none", None)
    assert f"totp:{person.id}" not in await api.dump("secrets")
    assert len(await api.events("second-factor.removed", subject=person.id)) == 1
    missing = await person.remove(person.code())
    assert (missing.status_code, missing.json()["code"]) == (403, "second-factor-missing")


async def test_an_administrator_resets_anothers_lost_app_and_that_is_kept(api: Api) -> None:
    admin, person = await second_person(api), await second_person(api, Role.COMPLIANCE)
    url = f"/api/v1/users/{person.id}/second-factor"
    assert (await person.client.delete(url)).status_code == 403
    reset = await admin.client.delete(url)
    assert (reset.status_code, reset.json()["second_factor"]) == (200, "none")
    session = await person.session()
    assert (session["second_factor"], session["stepped_up_until"]) == ("none", None)
    table = tables.users
    async with api.context.sessions() as lookup:
        query = sa.select(table).where(table.c.email == person.email)
        row = (await lookup.execute(query)).one()
    assert (row.totp_reset_by, row.totp_reset_at) == (admin.id, api.context.clock())
    assert len(await api.events("second-factor.reset", subject=person.id, actor=admin.id)) == 1
    assert (await admin.client.delete(url)).status_code == 200  # nothing is left to reset
    assert len(await api.events("second-factor.reset", subject=person.id)) == 1
    listed = (await admin.client.get(f"/api/v1/users/{admin.id}")).json()
    assert listed["second_factor"] == "active"


async def test_nobody_gets_rid_of_their_own_app_without_a_code(api: Api) -> None:
    admin = await second_person(api)
    refused = await admin.client.delete(f"/api/v1/users/{admin.id}/second-factor")
    assert (refused.status_code, refused.json()["code"]) == (403, "own-second-factor")
    assert (await admin.session())["second_factor"] == "active"


@pytest.mark.parametrize("code", ["", "12345", "1234567", "12345a", "١٢٣٤٥٦", "12 456"])
async def test_what_is_no_code_is_refused_by_its_form(api: Api, code: str) -> None:
    person = await new_person(api)
    assert (await person.step_up(code)).status_code == 422
