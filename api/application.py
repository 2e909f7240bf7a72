"""What both listeners have in common: problems for every error, headers, no accidental routes."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.context import ApiContext, open_context
from api.edge import Edge
from api.problems import problem_response, problem_schemas
from api.settings import ApiSettings

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def build(
    routers: Sequence[APIRouter],
    *,
    settings: ApiSettings,
    context: ApiContext | None,
    listener: str,
    openapi_url: str | None,
    hsts: bool,
) -> FastAPI:
    """Return an application; without a context it opens one of its own while it runs."""
    app = _Application(
        title="TensorGuard Management Platform",
        version="0.1.0",
        description="The control plane for fleets of edge AI agents.",
        openapi_url=openapi_url,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(settings, context),
        exception_handlers={
            HTTPException: _as_problem,
            RequestValidationError: _as_problem,
            Exception: _as_problem,
        },
    )
    for router in routers:
        app.include_router(router)
    app.add_middleware(Edge, listener=listener, hsts=hsts)
    return app


class _Application(FastAPI):
    """Puts the problem, which every route may answer with, among the document's components."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        document.setdefault("components", {}).setdefault("schemas", {}).update(problem_schemas())
        return document


def _lifespan(settings: ApiSettings, context: ApiContext | None) -> Lifespan:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if context is not None:
            app.state.context = context
            yield
            return
        async with open_context(settings) as own:
            app.state.context = own
            yield

    return lifespan


async def _as_problem(request: Request, error: Exception) -> Response:
    return problem_response(error)
