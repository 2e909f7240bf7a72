"""The application for devices: joining, trust bundles, package downloads. HTTPS only."""

from fastapi import FastAPI

from api.application import build
from api.context import ApiContext
from api.crl.routes import device_router as crl
from api.device.joining import router as joining
from api.device.packages import router as packages
from api.device.recovering import router as recovering
from api.settings import ApiSettings, load_settings

ROUTERS = (joining, recovering, packages, crl)


def create_device_app(
    settings: ApiSettings | None = None, *, context: ApiContext | None = None
) -> FastAPI:
    """Return the devices' listener; settings come from the environment unless given."""
    settings = settings or load_settings()
    return build(
        ROUTERS,
        settings=settings,
        context=context,
        listener="device",
        openapi_url=None,
        hsts=False,
    )
