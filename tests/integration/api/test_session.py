"""Signing in and out, and what a cookie is worth."""

import asyncio
import dataclasses
from datetime import timedelta

import httpx
import pytest
import sqlalchemy as sa

from api.attempts import FREE_FOR_ACCOUNT
from api.context import ApiContext, utc_now
from tensorguard.services.people.access import Role
from tensorguard.services.platform import ADMIN_EMAIL
from tensorguard.store import tables
from tests.integration.api.clients import BASE_URL, Api

SESSION = "/api/v1/session"


async def _new_user(api: Api, role: Role = Role.VIEWER) -> tuple[str, str, str]:
    """A user's id, e-mail address and password."""
    email = f"{utc_now().timestamp()}@example.org"
    made = await api.admin.post("/api/v1/users", json={"email": email, "name": "Ada", "role": role})
    assert made.status_code == 201, made.text
    return made.json()["id"], email, made.json()["password"]


async def _sign_in(client: httpx.AsyncClient, email: str, password: str) -> httpx.Response:
    return await client.post(SESSION, json={"email": email, "password": password})


async def test_the_first_admin_signs_in_with_the_password_of_the_first_start(
    api: Api, admin_password: str
) -> None:
    answer = await _sign_in(api.nobody, ADMIN_EMAIL.upper(), admin_password)
    assert answer.status_code == 201
    assert answer.json()["role"] == "admin"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("tg=")
    for flag in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"):
        assert flag in cookie
    assert "Secure" not in cookie
    assert (await api.nobody.get("/api/v1/users")).status_code == 200


async def test_over_https_the_cookie_is_bound_to_the_host(context: ApiContext) -> None:
    settings = context.settings.model_copy(update={"behind_proxy": True})
    async with Api(dataclasses.replace(context, settings=settings)) as api:
        _, email, password = await _new_user(api)
        answer = await _sign_in(api.nobody, email, password)
    assert answer.headers["set-cookie"].startswith("__Host-tg=")
    assert "Secure" in answer.headers["set-cookie"]
    assert "max-age" in answer.headers["strict-transport-security"]


async def test_a_session_ends_with_signing_out(api: Api) -> None:
    user_id, email, password = await _new_user(api)
    await _sign_in(api.nobody, email, password)
    cookie = api.nobody.cookies["tg"]
    assert (await api.nobody.get(SESSION)).json()["user"]["email"] == email
    assert (await api.nobody.delete(SESSION)).status_code == 204
    assert "tg" not in api.nobody.cookies
    stolen = await api.client(cookies={"tg": cookie})
    assert (await stolen.get(SESSION)).status_code == 401
    assert len(await api.events("session.signed-in", subject=user_id)) == 1
    assert len(await api.events("session.signed-out", subject=user_id)) == 1


async def test_where_somebody_signed_in_from_is_private(api: Api) -> None:
    user_id, email, password = await _new_user(api)
    await _sign_in(api.nobody, email, password)
    await _sign_in(api.nobody, email, "wrong")
    await _sign_in(api.nobody, f"nobody-{email}", "wrong")
    async with api.context.sessions() as session:
        table = tables.ledger_events
        query = sa.select(table.c.id, table.c.entry).where(
            table.c.type.in_(["session.signed-in", "session.failed"])
        )
        rows = (await session.execute(query)).all()
    assert not [row for row in rows if b"127.0.0.1" in row.entry or b"address" in row.entry]
    own = [str(row.id) for row in rows if user_id.encode() in row.entry]
    answer = await api.admin.post("/api/v1/ledger/private", json={"ids": own})
    assert [one["fields"] for one in answer.json()] == [{"address": "127.0.0.1"}] * 2
    unknown = [str(row.id) for row in rows if b'"unknown"' in row.entry]
    answer = await api.admin.post("/api/v1/ledger/private", json={"ids": unknown})
    assert (len(unknown) >= 1, answer.json()) == (True, [])
    gone = {"kind": "user", "id": user_id}
    assert (await api.admin.post("/api/v1/ledger/erasures", json=gone)).status_code == 200
    answer = await api.admin.post("/api/v1/ledger/private", json={"ids": own})
    assert [one["fields"] for one in answer.json()] == [None, None]


@pytest.mark.parametrize(
    ("idle_min", "expected"), [([29, 29, 29], 200), ([31], 401), ([29] * 25, 401)]
)
async def test_a_session_ends_after_half_an_hour_unused_or_twelve_hours(
    context: ApiContext, idle_min: list[int], expected: int
) -> None:
    passed = timedelta()
    moving = dataclasses.replace(context, clock=lambda: utc_now() + passed)
    async with Api(moving) as api:
        _, email, password = await _new_user(api)
        await _sign_in(api.nobody, email, password)
        for minutes in idle_min:
            passed += timedelta(minutes=minutes)
            answer = await api.nobody.get(SESSION)
        assert answer.status_code == expected


async def test_unknown_users_and_wrong_passwords_cannot_be_told_apart(api: Api) -> None:
    _, email, password = await _new_user(api)
    wrong = await _sign_in(api.nobody, email, password + "x")
    unknown = await _sign_in(api.nobody, "nobody@example.org", password)
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json() == unknown.json()
    assert wrong.json()["code"] == "bad-credentials"


async def test_guessing_a_password_has_to_wait_and_leaves_one_entry(context: ApiContext) -> None:
    async with Api(context) as api:
        user_id, email, password = await _new_user(api)
        statuses = [
            (await _sign_in(api.nobody, email, "wrong password")).status_code
            for _ in range(FREE_FOR_ACCOUNT + 3)
        ]
        assert statuses[:FREE_FOR_ACCOUNT] == [401] * FREE_FOR_ACCOUNT
        assert set(statuses[FREE_FOR_ACCOUNT:]) == {429}
        blocked = await _sign_in(api.nobody, email, password)
        assert blocked.status_code == 429
        assert int(blocked.headers["retry-after"]) >= 1
        assert len(await api.events("session.failed", subject=user_id)) == 1
        _, other_email, other_password = await _new_user(api)
        assert (await _sign_in(api.nobody, other_email, other_password)).status_code == 201


async def test_many_sign_ins_at_once_are_queued_up_to_a_limit(api: Api) -> None:
    _, email, password = await _new_user(api)
    answers = await asyncio.gather(*(_sign_in(api.nobody, email, password) for _ in range(60)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {201, 429}
    assert statuses.count(201) >= 10


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": BASE_URL}, 204),
        ({}, 204),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": BASE_URL.replace("http:", "https:")}, 403),
        ({"Origin": BASE_URL + "0"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": BASE_URL, "Sec-Fetch-Site": "same-origin"}, 204),
    ],
)
async def test_another_sites_page_cannot_use_the_cookie(
    api: Api, headers: dict[str, str], status: int
) -> None:
    _, email, password = await _new_user(api)
    await _sign_in(api.nobody, email, password)
    assert (await api.nobody.delete(SESSION, headers=headers)).status_code == status


async def test_another_sites_page_cannot_sign_anybody_in(api: Api) -> None:
    _, email, password = await _new_user(api)
    answer = await api.nobody.post(
        SESSION,
        json={"email": email, "password": password},
        headers={"Origin": "https://evil.example"},
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign-origin")


async def test_a_disabled_user_is_out_at_once(api: Api) -> None:
    user_id, email, password = await _new_user(api)
    await _sign_in(api.nobody, email, password)
    assert (await api.admin.post(f"/api/v1/users/{user_id}/disable")).status_code == 200
    assert (await api.nobody.get(SESSION)).status_code == 401
    assert (await _sign_in(api.nobody, email, password)).status_code == 401


async def test_a_reset_password_ends_sessions_and_the_old_password(api: Api) -> None:
    user_id, email, password = await _new_user(api)
    await _sign_in(api.nobody, email, password)
    reset = await api.admin.post(f"/api/v1/users/{user_id}/reset-password", json={})
    assert (await api.nobody.get(SESSION)).status_code == 401
    assert (await _sign_in(api.nobody, email, password)).status_code == 401
    assert (await _sign_in(api.nobody, email, reset.json()["password"])).status_code == 201


async def test_a_changed_role_counts_from_the_next_request_on(api: Api) -> None:
    user_id, email, password = await _new_user(api, Role.ADMIN)
    await _sign_in(api.nobody, email, password)
    url = f"/api/v1/users/{user_id}"
    etag = (await api.nobody.get(url)).headers["etag"]
    changed = await api.admin.patch(url, json={"role": "viewer"}, headers={"If-Match": etag})
    assert changed.json()["role"] == "viewer"
    assert (await api.nobody.get(url)).status_code == 403
    stale = await api.admin.patch(url, json={"role": "admin"}, headers={"If-Match": etag})
    assert stale.status_code == 412


async def test_secrets_are_stored_as_hashes_only(api: Api) -> None:
    _, email, password = await _new_user(api)
    await _sign_in(api.nobody, email, password)
    dumped = await api.dump("users", "sessions", "api_keys", "idempotency_keys", "ledger_events")
    assert email in dumped
    for secret in (password, api.nobody.cookies["tg"], (await api.new_key(Role.VIEWER))):
        assert secret not in dumped


async def test_the_last_admin_cannot_be_taken_away(api: Api) -> None:
    users = await api.all_of("/api/v1/users")
    admins = [user for user in users if user["role"] == "admin" and user["disabled_at"] is None]
    for user in admins[1:]:
        await api.admin.post(f"/api/v1/users/{user['id']}/disable")
    last = f"/api/v1/users/{admins[0]['id']}"
    gone = await api.admin.post(f"{last}/disable")
    assert (gone.status_code, gone.json()["code"]) == (409, "last-admin")
    etag = (await api.admin.get(last)).headers["etag"]
    demoted = await api.admin.patch(last, json={"role": "viewer"}, headers={"If-Match": etag})
    assert (demoted.status_code, demoted.json()["code"]) == (409, "last-admin")


async def test_an_address_belongs_to_one_user(api: Api) -> None:
    _, email, _ = await _new_user(api)
    again = await api.admin.post(
        "/api/v1/users", json={"email": email.upper(), "name": "Eve", "role": "admin"}
    )
    assert (again.status_code, again.json()["code"]) == (409, "user-exists")


@pytest.mark.parametrize("password", ["pa55-w0rd", "a" * 257, ""])
async def test_a_weak_password_is_refused(api: Api, password: str) -> None:
    answer = await api.admin.post(
        "/api/v1/users",
        json={"email": "weak@example.org", "name": "x", "role": "viewer", "password": password},
    )
    assert answer.status_code == 422
    assert password == "" or password not in answer.text
