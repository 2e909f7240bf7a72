"""The application for people and programs: `uvicorn api.app:create_app --factory`."""

from fastapi import FastAPI

from api.application import build
from api.context import ApiContext
from api.operations.routes import router as operations
from api.settings import ApiSettings, load_settings

ROUTERS = (operations,)


def create_app(
    settings: ApiSettings | None = None, *, context: ApiContext | None = None
) -> FastAPI:
    """Return the people's listener; settings come from the environment unless given."""
    settings = settings or load_settings()
    return build(
        ROUTERS,
        settings=settings,
        context=context,
        listener="people",
        openapi_url="/api/openapi.json",
        hsts=settings.is_https,
    )
