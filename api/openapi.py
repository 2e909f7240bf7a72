"""What FastAPI cannot know of our routes: who may use them, and that a POST may be repeated."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from api.access import requirement_of
from api.idempotency import KEY_PATTERN
from api.settings import ApiSettings

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same request with the same key has its effect once, within 24 hours.",
    "schema": {"type": "string", "pattern": KEY_PATTERN},
}


def describe(app: FastAPI, routers: Sequence[APIRouter], settings: ApiSettings) -> None:
    """Add permissions and repeatable requests to the document that `app` serves."""
    bare = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:  # made when it is first asked for: it takes a while
            _extend(bare(), routers, settings)
        return bare()

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation does it


def _extend(document: dict[str, Any], routers: Sequence[APIRouter], settings: ApiSettings) -> None:
    document.setdefault("components", {})["securitySchemes"] = {
        "apiKey": {"type": "http", "scheme": "bearer", "bearerFormat": "tg_<id>_<secret>"},
        "session": {"type": "apiKey", "in": "cookie", "name": settings.cookie_name},
    }
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                for method in route.methods or ():
                    _describe(document["paths"][route.path][method.lower()], route, method)


def _describe(operation: dict[str, Any], route: APIRoute, method: str) -> None:
    requirement = requirement_of(route.dependant, route.path)
    if requirement is None:
        return
    operation["security"] = [{"apiKey": []}, {"session": []}]
    operation["x-permission"] = str(requirement.permission)
    if requirement.step_up:
        operation["security"] = [{"session": []}]
        operation["x-step-up"] = True
    if method == "POST":
        operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
