"""`/healthz`, `/readyz`, `/metrics`."""

from typing import Annotated

import prometheus_client
import sqlalchemy as sa
from fastapi import Response

from api.access import PUBLIC, Requires
from api.routing import Session, new_router
from api.views import View
from tensorguard.services.people.access import Caller, Permission

router = new_router("", "operations")


class StatusView(View):
    """`ok`; anything else is a problem."""

    status: str = "ok"


@router.get("/healthz", dependencies=[PUBLIC])
async def get_health() -> StatusView:
    """Tell that the process lives."""
    return StatusView()


@router.get("/readyz", dependencies=[PUBLIC])
async def get_readiness(session: Session) -> StatusView:
    """Tell that the process can serve: the database answers."""
    await session.execute(sa.text("SELECT 1"))
    return StatusView()


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def get_metrics(caller: Annotated[Caller, Requires(Permission.METRICS_READ)]) -> Response:
    """Return the process's counters in the Prometheus text format."""
    return Response(
        prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST
    )
