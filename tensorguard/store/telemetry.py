"""How an agent was over time: from its heartbeats, or from what they were rolled up to."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.store.resolutions import Resolution
from tensorguard.store.tables import heartbeats

_FIGURES = ("cpu_percent", "memory_percent", "disk_percent", "temperature_c")


async def list_telemetry(
    session: AsyncSession,
    agent_id: UUID,
    *,
    since: datetime,
    until: datetime,
    step: timedelta,
    resolution: Resolution = Resolution.RAW,
) -> list[sa.RowMapping]:
    """Return one row for each step of since ≤ time < until that has any heartbeat.

    Steps are counted from `since`. For rollups `since` is the start of a bucket, and `step` a
    whole number of buckets.
    """
    rows = _heartbeats(agent_id) if resolution is Resolution.RAW else _rollup(agent_id, resolution)
    within = rows.where(rows.selected_columns.bucket >= since).where(
        rows.selected_columns.bucket < until
    )
    one = within.subquery()
    at = sa.func.date_bin(step, one.c.bucket, since).label("at")
    count = sa.func.sum(one.c.heartbeats)
    query = (
        sa.select(
            at,
            count.label("heartbeats"),
            sa.func.sum(one.c.degraded).label("degraded"),
            sa.func.sum(one.c.errors).label("errors"),
            _mean(one, "cpu_percent", count),
            sa.func.min(one.c.cpu_percent_min).label("cpu_percent_min"),
            sa.func.max(one.c.cpu_percent_max).label("cpu_percent_max"),
            _mean(one, "memory_percent", count),
            sa.func.min(one.c.memory_percent_min).label("memory_percent_min"),
            sa.func.max(one.c.memory_percent_max).label("memory_percent_max"),
            _mean(one, "disk_percent", count),
            sa.func.min(one.c.disk_percent_min).label("disk_percent_min"),
            sa.func.max(one.c.disk_percent_max).label("disk_percent_max"),
            _mean(one, "temperature_c", sa.func.nullif(sa.func.sum(one.c.temperatures), 0)),
            sa.func.min(one.c.temperature_c_min).label("temperature_c_min"),
            sa.func.max(one.c.temperature_c_max).label("temperature_c_max"),
        )
        .group_by(at)
        .order_by(at)
    )
    return list((await session.execute(query)).mappings())


def _mean(rows: sa.Subquery, figure: str, count: sa.ColumnElement[Any]) -> sa.Label[Any]:
    # Four-byte floats average to figures with noise in the eighth digit.
    mean = sa.func.sum(rows.c[f"{figure}_sum"]) / count
    return sa.func.round(sa.cast(mean, sa.Numeric), 2).label(figure)


def _heartbeats(agent_id: UUID) -> sa.Select[Any]:
    """Return heartbeats as if each were a rollup of its own."""
    table = heartbeats
    columns: list[sa.ColumnElement[Any]] = [
        table.c.received_at.label("bucket"),
        sa.literal_column("1").label("heartbeats"),
        sa.cast(table.c.status == "degraded", sa.Integer).label("degraded"),
        sa.cast(table.c.status == "error", sa.Integer).label("errors"),
        sa.cast(table.c.temperature_c.is_not(None), sa.Integer).label("temperatures"),
    ]
    for figure in _FIGURES:
        columns.append(sa.cast(table.c[figure], sa.Double).label(f"{figure}_sum"))
        columns += [table.c[figure].label(f"{figure}_{end}") for end in ("min", "max")]
    return sa.select(*columns).where(table.c.agent_id == agent_id)


def _rollup(agent_id: UUID, resolution: Resolution) -> sa.Select[Any]:
    names = ["bucket", "heartbeats", "degraded", "errors", "temperatures"]
    names += [f"{figure}_{part}" for figure in _FIGURES for part in ("sum", "min", "max")]
    view = sa.table(
        f"heartbeats_{resolution}",
        sa.column("agent_id", sa.Uuid),
        *[sa.column(name) for name in names],
    )
    return sa.select(*[view.c[name] for name in names]).where(view.c.agent_id == agent_id)
