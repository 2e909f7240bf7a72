"""Approvals over HTTP: publishers are registered and revoked by two persons."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.context import ApiContext, utc_now
from tensorguard.services.evidence.event import Actor
from tensorguard.services.people.access import Role
from tests.integration.api.clients import Api
from tests.integration.api.people import MovingClock, Person, new_person, second_person

APPROVALS = "/api/v1/approvals"
PUBLISHERS = "/api/v1/publishers"


def new_publisher(**changes: Any) -> dict[str, Any]:
    public = Ed25519PrivateKey.generate().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return {
        "name": "acme",
        "public_pem": pem,
        "names": ["acme-*"],
        "not_after": (utc_now() + timedelta(days=30)).isoformat(),
    } | changes


async def ask(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.post(PUBLISHERS, json=new_publisher())
    assert answer.status_code == 202, answer.text
    view: dict[str, Any] = answer.json()
    return view


async def approve(person: Person, approval: dict[str, Any]) -> httpx.Response:
    return await person.post(f"{APPROVALS}/{approval['id']}/approve")


@pytest.fixture
def clock() -> MovingClock:
    return MovingClock(utc_now())


@pytest.fixture
async def api(context: ApiContext, clock: MovingClock) -> AsyncIterator[Api]:
    """The people's application, on a clock that the test moves."""
    async with Api(dataclasses.replace(context, clock=clock)) as api:
        yield api


async def test_a_publisher_is_registered_and_revoked_by_two_persons(api: Api) -> None:
    asking, deciding = await second_person(api), await second_person(api)
    asked = await ask(asking.client)
    assert (asked["kind"], asked["state"]) == ("publisher.register", "pending")
    assert (asked["requested_by"], asked["yours"], asked["may_decide"]) == (asking.id, True, False)
    assert "yourself" in asked["why_not"]
    seen = (await deciding.client.get(f"{APPROVALS}/{asked['id']}")).json()
    assert (seen["yours"], seen["may_decide"], seen["why_not"]) == (False, True, None)
    assert seen["request"]["names"] == ["acme-*"]

    refused = await approve(asking, asked)
    assert (refused.status_code, refused.json()["code"]) == (403, "not-a-second-person")
    done = (await approve(deciding, asked)).json()
    assert (done["state"], done["decided_by"]) == ("approved", deciding.id)
    assert "approved already" in done["why_not"]
    url = f"{PUBLISHERS}/{done['result']['kid']}"
    publisher = (await api.admin.get(url)).json()
    assert (publisher["created_by"], publisher["revoked_at"]) == (asking.id, None)
    again = await approve(deciding, asked)
    assert (again.status_code, again.json()["code"]) == (409, "approval-not-pending")

    asked = (await asking.post(f"{url}/revoke", reason="stolen")).json()
    assert (await api.admin.get(url)).json()["revoked_at"] is None
    assert (await approve(deciding, asked)).json()["state"] == "approved"
    assert (await api.admin.get(url)).json()["revoked_at"]
    twice = await asking.post(f"{url}/revoke", reason="stolen")
    assert (twice.status_code, twice.json()["code"]) == (409, "publisher-revoked")


async def test_a_publisher_that_could_not_be_registered_is_not_asked_for(api: Api) -> None:
    for wrong in (
        {"public_pem": "not a key"},
        {"names": []},
        {"names": ["UPPER"]},
        {"not_after": "2020-01-01T00:00:00Z"},
        {"not_after": "2030-01-01T00:00:00"},
        {"more": 1},
    ):
        answer = await api.admin.post(PUBLISHERS, json=new_publisher(**wrong))
        assert answer.status_code == 422, answer.text
    mlops = await api.as_role(Role.MLOPS)
    assert (await mlops.post(PUBLISHERS, json=new_publisher())).status_code == 403


async def test_an_api_key_asks_and_never_decides(api: Api) -> None:
    asked = await ask(api.admin)
    assert "API key" in asked["why_not"]
    for key in (api.admin, await api.as_role(Role.ADMIN)):
        for what, body in (("approve", {}), ("reject", {"reason": "x"})):
            answer = await key.post(f"{APPROVALS}/{asked['id']}/{what}", json=body)
            assert (answer.status_code, answer.json()["code"]) == (403, "person-required")
            assert "Sign in" in answer.json()["hint"]


async def test_the_account_that_made_the_key_does_not_decide_about_it(api: Api) -> None:
    maker, other = await second_person(api), await second_person(api)
    made = await maker.post("/api/v1/api-keys", name="ci", role="admin")
    assert made.status_code == 201
    key = await api.client(headers={"Authorization": f"Bearer {made.json()['key']}"})
    asked = await ask(key)
    seen = (await maker.client.get(f"{APPROVALS}/{asked['id']}")).json()
    assert (seen["yours"], seen["may_decide"]) == (False, False)
    assert "API key that you made" in seen["why_not"]
    assert (await approve(maker, asked)).json()["code"] == "not-a-second-person"
    assert (await approve(other, asked)).json()["state"] == "approved"


async def test_an_account_that_the_requester_made_decides_only_after_a_day(
    api: Api, clock: MovingClock
) -> None:
    asking = await new_person(api)
    maker = Actor("user", asking.id)
    young, old = [
        await new_person(api, by=maker, at=clock.now - timedelta(hours=hours)) for hours in (23, 24)
    ]
    asked = await ask(asking.client)
    await young.activate()
    await old.activate()
    seen = (await young.client.get(f"{APPROVALS}/{asked['id']}")).json()
    assert "24 hours" in seen["why_not"]
    assert (await approve(young, asked)).json()["code"] == "not-a-second-person"
    assert (await approve(old, asked)).json()["state"] == "approved"


@pytest.mark.parametrize("what", ["password", "second factor"])
async def test_an_account_whose_proof_the_requester_has_reset_does_not_decide_that_day(
    api: Api, clock: MovingClock, what: str
) -> None:
    asking, deciding = await new_person(api), await second_person(api)
    user = f"/api/v1/users/{deciding.id}"
    if what == "password":
        reset = await asking.post(f"{user}/reset-password", password="a new password")
        deciding.password = "a new password"
        clock.advance(seconds=30)
    else:
        reset = await asking.client.delete(f"{user}/second-factor")
    assert reset.status_code == 200, reset.text
    credentials = {"email": deciding.email, "password": deciding.password}
    assert (await deciding.post("/api/v1/session", **credentials)).status_code == 201
    if what == "password":
        assert (await deciding.step_up(deciding.code())).status_code == 200
    else:
        await deciding.activate()
    asked = await ask(asking.client)
    assert (await approve(deciding, asked)).json()["code"] == "not-a-second-person"
    clock.advance(hours=24)
    await asking.post("/api/v1/session", email=asking.email, password=asking.password)
    await deciding.post("/api/v1/session", **credentials)
    assert (await deciding.step_up(deciding.code())).status_code == 200
    asked = (await asking.client.post(PUBLISHERS, json=new_publisher(name="later"))).json()
    assert (await approve(deciding, asked)).json()["state"] == "approved"


async def test_a_viewer_neither_sees_nor_decides_and_compliance_sees_why_not(api: Api) -> None:
    asked = await ask(api.admin)
    viewer = await second_person(api, Role.VIEWER)
    assert (await viewer.client.get(APPROVALS)).status_code == 403
    assert (await approve(viewer, asked)).json()["code"] == "forbidden"
    compliance = await second_person(api, Role.COMPLIANCE)
    seen = (await compliance.client.get(f"{APPROVALS}/{asked['id']}")).json()
    assert "publishers:write" in seen["why_not"]
    assert (await approve(compliance, asked)).json()["code"] == "may-not-decide"


async def test_a_rejection_says_why(api: Api) -> None:
    asked, deciding = await ask(api.admin), await second_person(api)
    url = f"{APPROVALS}/{asked['id']}/reject"
    assert (await deciding.post(url)).status_code == 422
    done = (await deciding.post(url, reason="nobody knows them")).json()
    assert (done["state"], done["reason"]) == ("rejected", "nobody knows them")
    assert (await approve(deciding, asked)).status_code == 409


async def test_what_fails_says_why_and_is_not_tried_again(api: Api) -> None:
    publisher, deciding = new_publisher(), await second_person(api)
    first, second = [
        (await client.post(PUBLISHERS, json=publisher)).json()
        for client in (api.admin, await api.as_role(Role.ADMIN))
    ]
    assert (await approve(deciding, first)).json()["state"] == "approved"
    failed = await approve(deciding, second)
    assert failed.status_code == 200
    assert failed.json()["state"] == "failed"
    assert "registered already" in failed.json()["reason"]
    assert (await approve(deciding, second)).status_code == 409


async def test_two_persons_at_the_same_time_approve_once(api: Api) -> None:
    asked = await ask(api.admin)
    deciders = [await second_person(api) for _ in range(3)]
    answers = await asyncio.gather(*(approve(one, asked) for one in deciders))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
    assert len(await api.events("approval.approved", subject=asked["id"])) == 1


async def test_after_a_quarter_of_an_hour_nobody_can_approve(api: Api, clock: MovingClock) -> None:
    asked, deciding = await ask(api.admin), await second_person(api)
    clock.advance(minutes=15)
    await deciding.step_up(deciding.code())
    url = f"{APPROVALS}/{asked['id']}/approve"
    for _ in range(2):
        late = await deciding.client.post(url, headers={"Idempotency-Key": "k"})
        assert (late.status_code, late.json()["code"]) == (409, "approval-not-pending")
    assert (await deciding.client.get(f"{APPROVALS}/{asked['id']}")).json()["state"] == "expired"
    assert len(await api.events("approval.expired", subject=asked["id"])) == 1


async def test_asking_again_while_it_waits_is_the_same(api: Api) -> None:
    publisher = new_publisher()
    asked = [(await api.admin.post(PUBLISHERS, json=publisher)).json() for _ in range(2)]
    assert asked[0] == asked[1]


async def test_approvals_are_paged_newest_first_and_filtered(api: Api) -> None:
    asked = [await ask(api.admin) for _ in range(5)]
    wanted = [one["id"] for one in reversed(asked)]
    found: list[str] = []
    cursor: str | None = None
    while len(found) < len(wanted):
        options = {"limit": "2", "state": "pending"} | ({"cursor": cursor} if cursor else {})
        page = (await api.admin.get(APPROVALS, params=options)).json()
        found += [one["id"] for one in page["items"]]
        cursor = page["next_cursor"]
    assert found[: len(wanted)] == wanted
    approved = (await api.admin.get(APPROVALS, params={"state": "approved"})).json()["items"]
    assert not {one["id"] for one in approved} & set(wanted)
    assert (await api.admin.get(APPROVALS, params={"state": "lost"})).status_code == 422
    assert (await api.admin.get(APPROVALS, params={"limit": 101})).status_code == 422
    assert (
        await api.admin.get(f"{APPROVALS}/{'0' * 8}-0000-0000-0000-{'0' * 12}")
    ).status_code == 404
