"""API keys, and requests that are sent twice."""

import asyncio
import json

from tensorguard.services.people.access import Role
from tests.integration.api.clients import Api, new_slug


async def test_a_repeated_request_has_its_effect_once_and_the_same_answer(api: Api) -> None:
    body = {"slug": new_slug(), "name": "Hospital A"}
    headers = {"Idempotency-Key": new_slug()}
    first = await api.admin.post("/api/v1/fleets", json=body, headers=headers)
    second = await api.admin.post("/api/v1/fleets", json=body, headers=headers)
    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    assert second.headers["idempotency-replayed"] == "true"
    assert second.headers["location"] == first.headers["location"]


async def test_requests_with_one_key_at_the_same_moment_have_one_effect(api: Api) -> None:
    body = {"slug": new_slug(), "name": "Hospital A"}
    headers = {"Idempotency-Key": new_slug()}
    answers = await asyncio.gather(
        *(api.admin.post("/api/v1/fleets", json=body, headers=headers) for _ in range(6))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len(await api.events("fleet.created", subject=body["slug"])) == 1


async def test_a_key_is_good_for_one_request_of_one_caller(api: Api) -> None:
    headers = {"Idempotency-Key": new_slug()}
    first = {"slug": new_slug(), "name": "A"}
    assert (await api.admin.post("/api/v1/fleets", json=first, headers=headers)).is_success
    other = {"slug": new_slug(), "name": "A"}
    reused = await api.admin.post("/api/v1/fleets", json=other, headers=headers)
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency-key-reused")
    somebody = await api.as_role(Role.ADMIN)
    assert (await somebody.post("/api/v1/fleets", json=other, headers=headers)).status_code == 201


async def test_a_request_that_failed_may_be_repeated_with_its_key(api: Api) -> None:
    slug, headers = new_slug(), {"Idempotency-Key": new_slug()}
    url = f"/api/v1/fleets/{slug}/enrollment-tokens"
    body = {"ttl_s": 60}
    assert (await api.admin.post(url, json=body, headers=headers)).status_code == 404
    await api.admin.post("/api/v1/fleets", json={"slug": slug, "name": "A"})
    assert (await api.admin.post(url, json=body, headers=headers)).status_code == 201


async def test_an_answer_with_a_secret_is_not_kept_for_a_repetition(api: Api) -> None:
    url = f"/api/v1/fleets/{await api.new_fleet()}/enrollment-tokens"
    headers = {"Idempotency-Key": new_slug()}
    first = await api.admin.post(url, json={"ttl_s": 60}, headers=headers)
    assert first.status_code == 201
    again = await api.admin.post(url, json={"ttl_s": 60}, headers=headers)
    assert (again.status_code, again.json()["code"]) == (409, "answer-not-kept")
    assert len((await api.admin.get(url)).json()["items"]) == 1
    assert first.json()["join"][10:] not in await api.dump("idempotency_keys")


async def test_a_key_that_is_no_key_is_refused(api: Api) -> None:
    for key in (b"", b"a" * 129, b"a b", b"\xff"):
        answer = await api.admin.post(
            "/api/v1/fleets", json={"slug": "x", "name": "x"}, headers={b"Idempotency-Key": key}
        )
        assert (answer.status_code, answer.json()["code"]) == (422, "bad-idempotency-key")


async def test_an_api_key_is_shown_once_and_ends_when_it_is_revoked(api: Api) -> None:
    made = await api.admin.post(
        "/api/v1/api-keys", json={"name": "ci <script>", "role": "mlops", "ttl_s": 3600}
    )
    assert made.status_code == 201
    key, key_id = made.json()["key"], made.json()["id"]
    assert key.startswith("tg_")
    program = await api.client(headers={"Authorization": f"Bearer {key}"})
    me = (await program.get("/api/v1/session")).json()
    assert (me["kind"], me["role"], me["user"]) == ("api-key", "mlops", None)
    listed = await api.all_of("/api/v1/api-keys")
    assert key.split("_", 2)[2] not in json.dumps(listed)
    assert [one["name"] for one in listed if one["id"] == key_id] == ["ci <script>"]
    for _ in range(2):
        assert (await api.admin.delete(f"/api/v1/api-keys/{key_id}")).status_code == 204
    assert (await program.get("/api/v1/session")).status_code == 401
    assert len(await api.events("api-key.revoked", subject=key_id)) == 1
