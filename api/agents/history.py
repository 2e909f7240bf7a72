"""`/api/v1/agents/{id}/telemetry` and `/timeline`: how an agent was, and what happened to it."""

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Query
from pydantic import AwareDatetime

from api.access import Requires
from api.agents.views import TelemetryPoint, TelemetryView, TimelineEntry, timeline_entry
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Now, Session, new_router
from tensorguard.services.errors import Invalid
from tensorguard.services.fleets.agents import get_agent
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.agents import list_timeline
from tensorguard.store.history import settings_of, settings_query
from tensorguard.store.resolutions import choose_resolution
from tensorguard.store.telemetry import list_telemetry

router = new_router("/api/v1/agents/{agent_id}", "agents")
Reader = Annotated[Caller, Requires(Permission.AGENTS_READ)]
LONGEST = timedelta(days=1096)
MOST_POINTS = 1000
_MICRO = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)


@router.get("/telemetry")
async def get_telemetry(
    caller: Reader,
    session: Session,
    agent_id: UUID,
    now: Now,
    since: Annotated[AwareDatetime | None, Query()] = None,
    until: Annotated[AwareDatetime | None, Query()] = None,
    points: Annotated[int, Query(ge=1, le=MOST_POINTS, description="At most so many.")] = 300,
) -> TelemetryView:
    """Return an agent's heartbeats averaged over equal steps; by default of the last hour.

    Long ranges are read from rollups by minute, hour or day: `resolution` says which, and `since`
    and `until` are then moved outwards to whole ones.
    """
    start, end = _range(since, until, now)
    settings = settings_of((await session.execute(settings_query())).one())
    resolution = choose_resolution(end - start, now - start, settings.retentions)
    start, end = resolution.floor(start), resolution.ceil(end)
    step = _step(end - start, points, resolution.bucket)
    await get_agent(session, agent_id)
    rows = await list_telemetry(
        session, agent_id, since=start, until=end, step=step, resolution=resolution
    )
    return TelemetryView(
        since=start,
        until=end,
        resolution=resolution.value,
        step_s=step.total_seconds(),
        points=[TelemetryPoint.model_validate(dict(row)) for row in rows],
    )


@router.get("/timeline")
async def get_timeline(
    caller: Reader,
    session: Session,
    agent_id: UUID,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[TimelineEntry]:
    """List what the ledger says of an agent, the newest first."""
    await get_agent(session, agent_id)
    before = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await list_timeline(session, agent_id, before=before, limit=limit + 1)
    return page_of(rows, limit, view=timeline_entry, key=lambda row: (str(row["id"]),))


def _step(length: timedelta, points: int, bucket: timedelta) -> timedelta:
    """Return what divides a range into `points` at most; whole buckets of a rollup."""
    # Rounded up, so that the last step does not add a point too many.
    step = timedelta(microseconds=-(-(length // _MICRO) // points))
    return -(-step // bucket) * bucket if bucket else max(step, _SECOND)


def _range(
    since: datetime | None, until: datetime | None, now: datetime
) -> tuple[datetime, datetime]:
    end = until or now
    try:
        start = since or end - timedelta(hours=1)
        length = end - start
    except OverflowError:
        raise Invalid("the time range is outside the calendar") from None
    if not timedelta(0) < length <= LONGEST:
        raise Invalid(
            f"the range from {start.isoformat()} to {end.isoformat()} is empty or too long",
            hint=f"Ask for at most {LONGEST.days} days, `since` before `until`.",
        )
    return start, end
