"""Manufacturer CAs through the API, from registration to the second person's word."""

from pathlib import Path
from typing import Any

import pytest

from tensorguard.services.people.access import Role
from tests.integration.api.clients import Api
from tests.integration.api.people import second_person
from tests.manufacturer import Manufacturer


@pytest.fixture
def acme(tmp_path: Path) -> Manufacturer:
    return Manufacturer(tmp_path)


def body(maker: Manufacturer, **changes: Any) -> dict[str, Any]:
    return {"name": "Acme", "certificate": maker.pem, "max_agents": 10} | changes


async def test_from_registration_to_the_second_persons_word(api: Api, acme: Manufacturer) -> None:
    url = f"/api/v1/fleets/{await api.new_fleet()}/manufacturer-cas"
    made = await api.admin.post(url, json=body(acme, serials=["B", "A"], tags={"gpu": "true"}))
    assert made.status_code == 201, made.text
    ca = made.json()
    assert (ca["state"], ca["approval"], ca["agents"]) == ("unproven", "manual", 0)
    assert (ca["serials"], ca["serials_count"]) == (["A", "B"], 2)
    assert ca["ca_pin"] == api.context.keyring.ca.spki_sha256
    proof = await api.admin.post(
        f"{url}/{ca['id']}/prove", json={"certificate": acme.proof(ca["challenge"])}
    )
    assert proof.status_code == 202, proof.text
    approval = proof.json()
    assert (approval["kind"], approval["state"]) == ("manufacturer-ca.register", "pending")
    assert approval["request"]["spki_sha256"] == ca["spki_sha256"]
    assert (await listed(api, url))["state"] == "unproven"
    own = await api.admin.post(f"/api/v1/approvals/{approval['id']}/approve", json={})
    assert own.status_code == 403
    person = await second_person(api)
    done = await person.post(f"/api/v1/approvals/{approval['id']}/approve")
    assert done.json()["state"] == "approved", done.text
    assert done.json()["result"] == {"manufacturer_ca_id": ca["id"]}
    active = await listed(api, url)
    assert (active["state"], active["challenge"]) == ("active", None)
    assert "serials" not in active
    assert (await api.admin.delete(f"{url}/{ca['id']}")).status_code == 204
    assert (await api.admin.get(f"{url}/{ca['id']}")).json()["state"] == "revoked"


async def listed(api: Api, url: str) -> dict[str, Any]:
    (one,) = (await api.admin.get(url)).json()["items"]
    found: dict[str, Any] = one
    return found


async def test_what_was_revoked_before_the_second_persons_word_stays_so(
    api: Api, acme: Manufacturer
) -> None:
    url = f"/api/v1/fleets/{await api.new_fleet()}/manufacturer-cas"
    ca = (await api.admin.post(url, json=body(acme))).json()
    proof = await api.admin.post(
        f"{url}/{ca['id']}/prove", json={"certificate": acme.proof(ca["challenge"])}
    )
    await api.admin.delete(f"{url}/{ca['id']}")
    person = await second_person(api)
    done = await person.post(f"/api/v1/approvals/{proof.json()['id']}/approve")
    assert done.json()["state"] == "failed"
    assert (await listed(api, url))["state"] == "revoked"


async def test_who_may_do_what(api: Api, acme: Manufacturer) -> None:
    url = f"/api/v1/fleets/{await api.new_fleet()}/manufacturer-cas"
    for role, read in ((Role.VIEWER, 403), (Role.MLOPS, 403), (Role.COMPLIANCE, 200)):
        client = await api.as_role(role)
        assert (await client.get(url)).status_code == read
        assert (await client.post(url, json=body(acme))).status_code == 403
    assert (await api.nobody.get(url)).status_code == 401
    assert (await listed_count(api, url)) == 0


async def listed_count(api: Api, url: str) -> int:
    return len((await api.admin.get(url)).json()["items"])


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"certificate": "x"}, 422, "manufacturer-ca-invalid"),
        ({"certificate": "x" * 20_000}, 422, "validation-failed"),
        ({"max_agents": 0}, 422, "validation-failed"),
        ({"approval": "never"}, 422, "validation-failed"),
        ({"serials": []}, 422, "validation-failed"),
        ({"serials": ["a\u0000"]}, 422, "validation-failed"),
        ({"name": "\u0007"}, 422, "validation-failed"),
        ({"name": "x" * 2_000_000}, 413, "body-too-large"),
    ],
)
async def test_bad_input_is_a_problem_with_a_name(
    api: Api, acme: Manufacturer, changes: dict[str, Any], status: int, code: str
) -> None:
    url = f"/api/v1/fleets/{await api.new_fleet()}/manufacturer-cas"
    answer = await api.admin.post(url, json=body(acme, **changes))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert await listed_count(api, url) == 0


async def test_a_wrong_proof_and_an_unknown_ca_are_problems(api: Api, acme: Manufacturer) -> None:
    fleet = await api.new_fleet()
    url = f"/api/v1/fleets/{fleet}/manufacturer-cas"
    ca = (await api.admin.post(url, json=body(acme))).json()
    wrong = await api.admin.post(f"{url}/{ca['id']}/prove", json={"certificate": acme.pem})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "manufacturer-ca-proof-invalid")
    elsewhere = f"/api/v1/fleets/{await api.new_fleet()}/manufacturer-cas/{ca['id']}"
    for answer in (
        await api.admin.get(elsewhere),
        await api.admin.delete(elsewhere),
        await api.admin.post(f"{elsewhere}/prove", json={"certificate": acme.pem}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "manufacturer-ca-not-found")
    assert (await listed(api, url))["state"] == "unproven"


async def test_ten_thousand_serial_numbers_fit(api: Api, acme: Manufacturer) -> None:
    url = f"/api/v1/fleets/{await api.new_fleet()}/manufacturer-cas"
    serials = [f"{number:064d}" for number in range(10_000)]
    made = await api.admin.post(url, json=body(acme, serials=serials))
    assert made.status_code == 201, made.text
    assert (await listed(api, url))["serials_count"] == 10_000
