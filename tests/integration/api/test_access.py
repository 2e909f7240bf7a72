"""Who may do what: every route against every role, and what is no route at all."""

import re
from typing import Annotated
from uuid import uuid4

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from api.access import Requires, UndeclaredRoute, requirement_of, walk_routes
from api.app import ROUTERS
from api.device.app import ROUTERS as DEVICE_ROUTERS
from api.routing import Route, new_router
from tensorguard.services.people.access import ROLE_PERMISSIONS, Caller, Permission, Role
from tests.integration.api.clients import Api

PUBLIC_ROUTES = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("POST", "/api/v1/session"),
}
ROUTES = [
    (method, route)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods or ())
]


def _named(pair: tuple[str, APIRoute]) -> str:
    return f"{pair[0]} {pair[1].path}"


def test_every_route_names_one_permission_or_is_one_of_the_few_public_ones() -> None:
    found = set()
    for method, route in ROUTES:
        assert isinstance(route, Route), f"{route.path} is not one of our routes"
        if requirement_of(route.dependant, route.path) is None:
            found.add((method, route.path))
    assert found == PUBLIC_ROUTES


def test_the_application_serves_exactly_the_routes_that_were_looked_at(api: Api) -> None:
    served = {
        (method, getattr(route, "path", ""))
        for route in walk_routes(list(api.app.routes))
        for method in getattr(route, "methods", ())
    }
    looked_at = {(method, route.path) for method, route in ROUTES}
    assert served - looked_at == {("GET", "/api/openapi.json"), ("HEAD", "/api/openapi.json")}


def test_every_device_route_is_public_and_there_are_only_those_that_devices_need() -> None:
    routes = [route for router in DEVICE_ROUTERS for route in router.routes]
    assert all(isinstance(route, Route) for route in routes)
    paths = {getattr(route, "path", "") for route in routes}
    assert {"/device/v1/ca", "/device/v1/enroll", "/device/v1/trust/{version}"} <= paths
    assert all(path.startswith("/device/v1/") for path in paths)


def test_a_route_that_names_nothing_cannot_be_made() -> None:
    router = new_router("/x", "x")

    async def endpoint() -> None:
        return None

    with pytest.raises(UndeclaredRoute):
        router.get("")(endpoint)


async def test_an_endpoint_with_a_permission_does_not_run_under_a_foreign_router() -> None:
    app, router = FastAPI(), APIRouter()

    @router.get("/x")
    async def endpoint(caller: Annotated[Caller, Requires(Permission.FLEETS_READ)]) -> str:
        return "reached"

    app.include_router(router)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert (await client.get("/x")).status_code == 500


@pytest.mark.parametrize("pair", ROUTES, ids=_named)
async def test_a_route_answers_exactly_the_roles_that_have_its_permission(
    api: Api, pair: tuple[str, APIRoute]
) -> None:
    method, route = pair
    requirement = requirement_of(route.dependant, route.path)
    if requirement is None or route.path in ("/api/v1/session", "/api/v1/events"):
        return  # the stream does not end: test_events.py
    path = re.sub(r"\{fleet\}", "no-such-fleet", route.path)
    path = re.sub(r"\{[a-z_]+\}", str(uuid4()), path)
    nobody = await api.nobody.request(method, path)
    assert nobody.status_code == 401
    assert method == "HEAD" or nobody.json()["code"] == "unauthenticated"
    for role in Role:
        client = await api.as_role(role)
        answer = await client.request(method, path)
        status = answer.status_code
        if requirement.step_up and requirement.permission in ROLE_PERMISSIONS[role]:
            assert (status, answer.json()["code"]) == (403, "person-required"), role
        elif requirement.permission in ROLE_PERMISSIONS[role]:
            assert status not in (401, 403), f"{role}: {status}"
        else:
            assert status == 403, f"{role}: {status}"


def test_only_admins_manage_people_and_keys_and_decide_which_devices_there_are() -> None:
    for permission in (
        Permission.USERS_ADMIN,
        Permission.API_KEYS_ADMIN,
        Permission.FLEETS_WRITE,
        Permission.TOKENS_WRITE,
        Permission.PUBLISHERS_WRITE,
    ):
        assert [role for role in Role if permission in ROLE_PERMISSIONS[role]] == [Role.ADMIN]


def test_mlops_deploys_and_compliance_pulls_the_kill_switch() -> None:
    mlops, compliance = ROLE_PERMISSIONS[Role.MLOPS], ROLE_PERMISSIONS[Role.COMPLIANCE]
    assert {Permission.PACKAGES_WRITE, Permission.DEPLOYMENTS_WRITE} <= mlops
    assert {Permission.AGENTS_REVOKE, Permission.LEDGER_READ} <= compliance
    assert Permission.AGENTS_REVOKE not in mlops
    assert not {one for one in compliance if one.endswith(":write")}
    assert all(one.endswith((":read", ":own")) for one in ROLE_PERMISSIONS[Role.VIEWER])


async def test_a_denied_request_is_in_the_ledger_once_however_often_it_is_repeated(
    api: Api,
) -> None:
    viewer = await api.as_role(Role.VIEWER)
    for _ in range(20):
        answer = await viewer.post("/api/v1/fleets", json={"slug": "x", "name": "x"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    me = (await viewer.get("/api/v1/session")).json()["id"]
    assert await api.events("request.denied", actor=me) == [
        {"permission": "fleets:write", "reason": "forbidden", "count": 1}
    ]
    await api.context.denials.flush(all_of_them=True)
    assert (await api.events("request.denied", actor=me))[1]["count"] == 19


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer tg_",
        "Bearer tg__",
        "Bearer tg_0_x",
        "Bearer tg_" + "0" * 32 + "_" + "a" * 43,
        "Bearer tg_\u00e9",
        "Basic YWRtaW46YWRtaW4=",
        "Bearer " + "a" * 4000,
    ],
)
async def test_a_key_that_was_never_made_opens_nothing(api: Api, header: str) -> None:
    answer = await api.nobody.get(
        "/api/v1/fleets", headers={b"Authorization": header.encode("latin-1")}
    )
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_key_with_another_keys_id_or_a_changed_secret_opens_nothing(api: Api) -> None:
    good, other = await api.new_key(Role.ADMIN), await api.new_key(Role.ADMIN)
    _, good_id, _ = good.split("_", 2)
    mixed = f"tg_{good_id}_{other.split('_', 2)[2]}"
    for key, status in ((good, 200), (mixed, 401), (good[:-1], 401), (good + "A", 401)):
        answer = await api.nobody.get("/api/v1/fleets", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == status
