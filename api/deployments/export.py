"""`/api/v1/deployments/{id}/export`: every agent with its state and the reason, as CSV."""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Final
from uuid import UUID

from fastapi.responses import StreamingResponse

from api.access import Requires
from api.context import ApiContext
from api.deployments.views import DeploymentAgentView
from api.routing import Context, Session, new_router
from tensorguard.services.deployments.deployments import get_deployment
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.deployments import DeploymentAgent, list_deployment_agents

router = new_router("/api/v1/deployments/{deployment_id}", "deployments")
Reader = Annotated[Caller, Requires(Permission.DEPLOYMENTS_READ)]
COLUMNS: Final = tuple(DeploymentAgentView.model_fields)
_AT_ONCE: Final = 1000
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@router.get("/export", response_class=StreamingResponse)
async def export_agents(
    caller: Reader, context: Context, session: Session, deployment_id: UUID
) -> StreamingResponse:
    """Return all agents of a deployment as CSV, with states and reasons."""
    await get_deployment(session, deployment_id)
    name = f"deployment-{deployment_id}.csv"
    return StreamingResponse(
        _lines(context, deployment_id),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


async def _lines(context: ApiContext, deployment_id: UUID) -> AsyncIterator[str]:
    yield _encode([COLUMNS])
    after: UUID | None = None
    while True:
        # A session a page: the export of a large deployment holds no transaction open.
        async with context.sessions() as session:
            rows = await list_deployment_agents(session, deployment_id, after=after, limit=_AT_ONCE)
        if rows:
            yield _encode(_cells(row) for row in rows)
            after = rows[-1].agent_id
        if len(rows) < _AT_ONCE:
            return


def _cells(row: DeploymentAgent) -> list[str]:
    values = (getattr(row, name) for name in COLUMNS)
    return [_plain("" if value is None else str(value)) for value in values]


def _plain(text: str) -> str:
    """Return text that no spreadsheet takes for a formula: names and reasons come from devices."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _encode(rows: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()
