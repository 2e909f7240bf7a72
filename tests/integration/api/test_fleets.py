"""Fleets and their enrollment tokens over the real application."""

import pytest

from tensorguard.protocol.join import parse_join
from tests.integration.api.clients import Api, new_slug


async def test_a_fleet_is_made_once_and_found_again(api: Api) -> None:
    slug = new_slug()
    made = await api.admin.post("/api/v1/fleets", json={"slug": slug, "name": "Hospital A"})
    assert made.status_code == 201
    assert made.headers["location"] == f"/api/v1/fleets/{slug}"
    found = await api.admin.get(f"/api/v1/fleets/{slug}")
    assert found.json() == made.json()
    assert found.json()["agents"] == 0
    again = await api.admin.post("/api/v1/fleets", json={"slug": slug, "name": "Hospital B"})
    assert (again.status_code, again.json()["code"]) == (409, "fleet-exists")


@pytest.mark.parametrize("slug", ["", "Hospital", "a_b", "-a", "a-", "a" * 41, "../a", "a\u0000"])
async def test_a_fleet_with_a_bad_slug_is_refused(api: Api, slug: str) -> None:
    answer = await api.admin.post("/api/v1/fleets", json={"slug": slug, "name": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation-failed")
    assert answer.json()["errors"][0]["location"] == ["body", "slug"]


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=alert(1)>",
        "\u202eevil\u202c",
        "🏥" * 200,
        "'; DROP TABLE fleets; --",
        "a" * 200,
        "מרכז רפואי",
    ],
)
async def test_a_hostile_name_comes_back_as_it_was(api: Api, name: str) -> None:
    slug = await api.new_fleet(name)
    answer = await api.admin.get(f"/api/v1/fleets/{slug}")
    assert answer.json()["name"] == name
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["", "a" * 201, "nul\u0000", "line\nbreak", "\x1b[31mred"])
async def test_a_name_that_cannot_be_shown_is_refused(api: Api, name: str) -> None:
    answer = await api.admin.post("/api/v1/fleets", json={"slug": new_slug(), "name": name})
    assert answer.status_code == 422


async def test_a_half_surrogate_is_refused_and_quoted_harmlessly(api: Api) -> None:
    for body in (
        b'{"slug": "half-surrogate", "name": "\\ud800"}',
        b'{"slug": "half-surrogate", "name": "x", "\\ud800": 1}',
        b'{"slug": "half-surrogate", "name": "x", "extra": 1}',
    ):
        answer = await api.admin.post(
            "/api/v1/fleets", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 422, body
        assert answer.json()["code"] == "validation-failed"


async def test_pages_of_fleets_hold_each_fleet_once_while_others_are_made(api: Api) -> None:
    made = {await api.new_fleet() for _ in range(5)}
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await api.admin.get("/api/v1/fleets", params=params)).json()
        seen += [fleet["slug"] for fleet in page["items"]]
        await api.new_fleet()
        cursor = page["next_cursor"]
        if cursor is None or len(seen) > 200:
            break
    assert len(seen) == len(set(seen))
    assert made <= set(seen)


async def test_an_update_needs_the_revision_that_it_changes(api: Api) -> None:
    slug = await api.new_fleet()
    url = f"/api/v1/fleets/{slug}"
    etag = (await api.admin.get(url)).headers["etag"]
    body = {"heartbeat_interval_s": 30}
    assert (await api.admin.patch(url, json=body)).status_code == 428
    done = await api.admin.patch(url, json=body, headers={"If-Match": etag})
    assert (done.status_code, done.json()["heartbeat_interval_s"]) == (200, 30)
    assert done.headers["etag"] != etag
    late = await api.admin.patch(url, json={"heartbeat_interval_s": 60}, headers={"If-Match": etag})
    assert (late.status_code, late.json()["code"]) == (412, "revision-changed")
    assert (await api.admin.get(url)).json()["heartbeat_interval_s"] == 30


async def test_a_token_is_shown_once_inside_its_join_string(api: Api) -> None:
    fleet = await api.new_fleet()
    url = f"/api/v1/fleets/{fleet}/enrollment-tokens"
    made = await api.admin.post(
        url, json={"ttl_s": 3600, "max_uses": 5, "tags": {"gpu": "true"}, "approval": "auto"}
    )
    assert made.status_code == 201
    assert set(made.json()) == {"id", "join", "expires_at"}
    join = parse_join(made.json()["join"])
    assert join.url == api.context.settings.device_url
    assert join.ca == api.context.keyring.ca.spki_sha256
    listed = await api.admin.get(url)
    assert join.token not in listed.text
    (token,) = listed.json()["items"]
    assert (token["id"], token["uses_left"], token["tags"]) == (
        made.json()["id"],
        5,
        {"gpu": "true"},
    )


async def test_a_token_is_revoked_under_its_own_fleet_only(api: Api) -> None:
    fleet, other = await api.new_fleet(), await api.new_fleet()
    url = f"/api/v1/fleets/{fleet}/enrollment-tokens"
    token_id = (await api.admin.post(url, json={"ttl_s": 60})).json()["id"]
    elsewhere = await api.admin.delete(f"/api/v1/fleets/{other}/enrollment-tokens/{token_id}")
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (404, "enrollment-token-not-found")
    for _ in range(2):
        assert (await api.admin.delete(f"{url}/{token_id}")).status_code == 204
    (token,) = (await api.admin.get(url)).json()["items"]
    assert token["revoked_at"] is not None


@pytest.mark.parametrize(
    "terms",
    [
        {"ttl_s": 0},
        {"ttl_s": 10**12},
        {"ttl_s": 60, "max_uses": 0},
        {"ttl_s": 60, "tags": {"<img>": "x"}},
        {"ttl_s": 60, "tags": {"a": "\u0000"}},
        {"ttl_s": 60, "cidr": "10.0.0.1/8"},
        {"ttl_s": 60, "approval": "perhaps"},
        {},
    ],
)
async def test_bad_terms_of_a_token_are_refused(api: Api, terms: dict[str, object]) -> None:
    fleet = await api.new_fleet()
    url = f"/api/v1/fleets/{fleet}/enrollment-tokens"
    answer = await api.admin.post(url, json=terms)
    assert answer.status_code == 422, answer.text
    assert (await api.admin.get(url)).json()["items"] == []


async def test_a_token_of_a_fleet_that_does_not_exist_is_not_found(api: Api) -> None:
    answer = await api.admin.post("/api/v1/fleets/no-such/enrollment-tokens", json={"ttl_s": 60})
    assert (answer.status_code, answer.json()["code"]) == (404, "fleet-not-found")
