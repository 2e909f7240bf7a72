"""The api does what its OpenAPI document says, whatever it is sent."""

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from schemathesis import BaseSchema, Case, GenerationMode, openapi, serializer
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from api.app import ROUTERS, create_app
from api.packages.tus import MEDIA_TYPE as OCTETS
from api.settings import ApiSettings
from tensorguard.services.evidence.event import SYSTEM
from tensorguard.services.people.access import Role
from tensorguard.services.people.api_keys import create_api_key
from tensorguard.store.engine import create_engine, session_maker
from tests.integration.api.process import running_api

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    ignored_auth,
]
EXAMPLES = 30 if os.environ.get("TG_TEST_DEEP") else 4  # of a route and a way of being wrong
# The answers to wrong data: 413 where the generator has made too much of it, 412 for tus.
CONFIG = SchemathesisConfig.from_dict(
    {
        "checks": {
            "negative_data_rejection": {
                "expected-statuses": [400, 401, 403, 404, 406, 409, 412, 413, 415, 422, 428]
            }
        }
    }
)
serializer.alias(OCTETS, "application/octet-stream")  # the body of a tus request
# Nothing can be sent to the first two that is wrong, and the stream's answer does not end:
# test_events.py listens to it.
BARE = {"/healthz", "/readyz", "/api/v1/events"}
OPERATIONS = [
    (method, route.path)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods or ())
]


async def _new_key(url: str) -> str:
    engine = create_engine(url, service="test")
    async with session_maker(engine).begin() as session:
        made = await create_api_key(
            session, name="contract", role=Role.ADMIN, by=SYSTEM, now=datetime.now(UTC)
        )
    await engine.dispose()
    return made.key


@pytest.fixture(scope="module")
def key(platform: ApiSettings) -> str:
    return asyncio.run(_new_key(platform.database_url.get_secret_value()))


@pytest.fixture(scope="module")
def document(
    platform: ApiSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BaseSchema]:
    with running_api(platform, tmp_path_factory.mktemp("api") / "log") as (_, url):
        yield openapi.from_url(f"{url}/api/openapi.json", config=CONFIG)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), [one for one in OPERATIONS if one[1] not in BARE])
def test_every_answer_is_as_the_document_says(
    document: BaseSchema, key: str, method: str, path: str, mode: GenerationMode
) -> None:
    headers = {"Authorization": f"Bearer {key}"}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=document[path][method].as_strategy(generation_mode=mode))
    def every_case(case: Case[Any]) -> None:
        case.call_and_validate(headers=headers, checks=CHECKS, timeout=30)

    every_case()


def test_the_document_is_openapi_3_1_and_names_every_permission(platform: ApiSettings) -> None:
    document = create_app(platform).openapi()
    assert document["openapi"].startswith("3.1")
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    unprotected = {name for name, one in operations.items() if "x-permission" not in one}
    assert unprotected == {"GET /healthz", "GET /readyz", "POST /api/v1/session"}
    for name, operation in operations.items():
        assert operation["summary"], name
        problem = operation["responses"]["default"]["content"]
        assert "application/problem+json" in problem, name
