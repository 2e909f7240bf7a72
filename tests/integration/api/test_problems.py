"""Every error is a problem (RFC 9457), and says what to do; nothing that was sent comes back."""

import dataclasses
import importlib
import pkgutil
from collections.abc import AsyncIterator
from datetime import datetime

import httpx
import pytest

import tensorguard.services
from api.app import create_app
from api.context import ApiContext
from api.problems import status_of
from tensorguard.rollouts.errors import RolloutError
from tensorguard.services.errors import ServiceError
from tests.integration.api.clients import Api


def _is_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"] == f"/problems/{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["hint"]


async def test_what_does_not_exist_is_a_problem_on_both_listeners(api: Api) -> None:
    for client in (api.nobody, api.admin, api.device):
        _is_problem(await client.get("/api/v1/no-such"), 404, "not-found")
        _is_problem(await client.get("/no-such"), 404, "not-found")
    _is_problem(await api.nobody.get("/device/v1/ca"), 404, "not-found")


async def test_a_method_that_a_route_does_not_have_is_a_problem(api: Api) -> None:
    answer = await api.admin.put("/api/v1/fleets", json={})
    _is_problem(answer, 405, "method-not-allowed")
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    "type", ["text/plain", "application/x-www-form-urlencoded", "", "text/json"]
)
async def test_a_body_that_is_not_declared_as_json_is_refused(api: Api, type: str) -> None:
    answer = await api.admin.post(
        "/api/v1/fleets", content=b'{"slug": "a", "name": "a"}', headers={"Content-Type": type}
    )
    _is_problem(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 60_000, b"null", b"[]", b'"x"', b""])
async def test_a_body_that_is_not_the_json_that_was_asked_for_is_refused(
    api: Api, body: bytes
) -> None:
    answer = await api.admin.post(
        "/api/v1/fleets", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_body_beyond_the_limit_is_refused_whether_announced_or_not(api: Api) -> None:
    big = b'{"slug": "a", "name": "' + b"a" * 70_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    _is_problem(
        await api.admin.post("/api/v1/fleets", content=big, headers=headers), 413, "body-too-large"
    )

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(big), 1000):
            yield big[start : start + 1000]

    _is_problem(
        await api.admin.post("/api/v1/fleets", content=pieces(), headers=headers),
        413,
        "body-too-large",
    )


async def test_a_problem_does_not_repeat_what_was_sent(api: Api) -> None:
    secret = "correct horse battery staple"
    for body in (
        {"email": "a@b.c", "password": secret, "extra": 1},
        {"email": secret, "password": secret},
        {"email": ["x"], "password": [secret]},
    ):
        answer = await api.nobody.post("/api/v1/session", json=body)
        _is_problem(answer, 422, "validation-failed")
        assert secret not in answer.text


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=x",
        "q=%00",
        "q=",
        "presence=maybe",
        "fleet=A",
        "trust_below=-1",
    ],
)
async def test_a_bad_query_is_a_problem_that_names_the_parameter(api: Api, query: str) -> None:
    answer = await api.admin.get(f"/api/v1/agents?{query}")
    _is_problem(answer, 422, "validation-failed")
    assert answer.json()["errors"][0]["location"] == ["query", query.partition("=")[0]]


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "e30",  # {}
        "W10",  # []
        "WzFd",  # [1]
        "WyJhIl0",  # ["a"]
        "WyJhIiwibm90LWEtdXVpZCJd",  # ["a","not-a-uuid"]
        "WyJcdTAwMDAiLCIwMTljYTNhYy03YTNmLTdhN2EtOGM3YS0wMTljYTNhYzdhM2YiXQ",  # NUL in the name
        "WyJcdWQ4MDAiLCIwMTljYTNhYy03YTNmLTdhN2EtOGM3YS0wMTljYTNhYzdhM2YiXQ",  # half a surrogate
        "a" * 1000,
        "%00",
        "W1tbW1tb",
    ],
)
async def test_a_cursor_that_was_made_up_is_a_problem(api: Api, cursor: str) -> None:
    _is_problem(await api.admin.get(f"/api/v1/agents?cursor={cursor}"), 422, "bad-cursor")


async def test_every_answer_forbids_sniffing_framing_scripts_and_caching(api: Api) -> None:
    for answer in (
        await api.nobody.get("/healthz"),
        await api.nobody.get("/no-such"),
        await api.admin.get("/api/v1/fleets"),
        await api.device.get("/device/v1/ca"),
    ):
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_every_error_of_a_use_case_has_a_status_for_the_caller_and_says_what_to_do() -> None:
    for module in pkgutil.walk_packages(tensorguard.services.__path__, "tensorguard.services."):
        importlib.import_module(module.name)
    todo: list[type[ServiceError | RolloutError]] = [ServiceError, RolloutError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind not in (ServiceError, RolloutError):
            status = status_of(kind.__new__(kind))
            assert status is not None, f"{kind.__name__} ({kind.code}) has no HTTP status"
            assert 400 <= status <= 503
            assert kind.hint.endswith("."), f"{kind.__name__} ({kind.code}) says not what to do"


async def test_a_fault_of_the_program_tells_nothing_but_that_there_is_one(
    context: ApiContext,
) -> None:
    def broken() -> datetime:
        raise ValueError("a detail that nobody outside may read")

    app = create_app(context.settings, context=dataclasses.replace(context, clock=broken))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        answer = await client.get("/readyz")
    _is_problem(answer, 500, "internal-error")
    assert "nobody outside" not in answer.text
