"""Native range partitions of heartbeats and rollups, where TimescaleDB does not make chunks."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from tensorguard.store.history import HistorySettings, read_settings
from tensorguard.store.resolutions import Resolution

AHEAD = 2
_LOCK = 7290412
_DROP_LOCK = 7290416


@dataclass(frozen=True, slots=True)
class _Series:
    """A table by time: its partitions' length, how long it is kept, and what is made of it."""

    table: str
    step: timedelta
    retention: timedelta
    rollup: Resolution | None


def _series(settings: HistorySettings) -> list[_Series]:
    coarser = [*Resolution][1:]
    return [
        _Series(
            "heartbeats" if resolution is Resolution.RAW else f"rollup_{resolution}",
            settings.partition_of(resolution),
            settings.retentions[resolution],
            coarser[index] if index < len(coarser) else None,
        )
        for index, resolution in enumerate(Resolution)
    ]


def ensure_partitions(connection: sa.Connection, now: datetime | None = None) -> list[str]:
    """Make the partitions of the last, this and the next intervals; return the names of new ones.

    Those of rollups go back as far as there is something to be rolled up.
    `CREATE TABLE … LIKE` then `ATTACH`: `PARTITION OF` would block ingest behind a long SELECT.
    Several replicas may run it at once. Does nothing on TimescaleDB. The caller commits.
    """
    now = now or datetime.now(UTC)
    settings = read_settings(connection)
    if settings.engine != "native":
        return []
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    made: list[str] = []
    begins = now
    for series in _series(settings):
        since = now - series.step
        if series.table != "heartbeats":
            unmade = min(now - series.retention, _watermark(connection, series))
            since = min(since, max(begins, unmade))
        made += _ensure(connection, series, since, now)
        begins = _attached(connection, series.table)[0].starts_at
    return made


def _ensure(
    connection: sa.Connection, series: _Series, since: datetime, now: datetime
) -> list[str]:
    covered = [(one.starts_at, one.ends_at) for one in _attached(connection, series.table)]
    made = []
    for start, end in _wanted(series.step, since, now):
        # Another interval may have been in force until now: take over where its partitions end.
        overlapping = [ends for starts, ends in covered if starts < end and ends > start]
        start = max([start, *overlapping])
        if start >= end:
            continue
        name = f"{series.table}_{start:%Y%m%d_%H%M}"
        # Names and bounds are ours: made of a date, never of input.
        connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE {series.table} INCLUDING ALL)")
        connection.exec_driver_sql(
            f"ALTER TABLE {series.table} ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
        )
        made.append(name)
    return made


def _wanted(step: timedelta, since: datetime, now: datetime) -> list[tuple[datetime, datetime]]:
    step_s = step.total_seconds()
    first = datetime.fromtimestamp(since.timestamp() // step_s * step_s, UTC)
    count = int((now - first) / step) + AHEAD + 1
    starts = [first + offset * step for offset in range(count)]
    return [(start, start + step) for start in starts]


def _watermark(connection: sa.Connection, series: _Series) -> datetime:
    statement = sa.text("SELECT rolled_up(:rollup)")
    rollup = series.table.removeprefix("rollup_")
    found = connection.execute(statement, {"rollup": rollup}).scalar_one()
    assert isinstance(found, datetime)
    return found


def drop_expired_partitions(engine: sa.Engine, now: datetime | None = None) -> list[str]:
    """Drop partitions that lie wholly before the retention; return their names.

    Not those that hold what is not rolled up yet. `DETACH … CONCURRENTLY` first, in its own
    transaction, so that neither ingest nor a long SELECT waits. What an interrupted run left half
    detached or detached is finished. While another process is at it, this one does nothing.
    """
    now = now or datetime.now(UTC)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        settings = read_settings(connection)
        if settings.engine != "native":
            return []
        key = {"key": _DROP_LOCK}
        if not connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), key).scalar():
            return []
        try:
            return [
                name
                for series in _series(settings)
                for name in _drop_before(connection, series, now - series.retention)
            ]
        finally:
            connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), key)


def _drop_before(connection: sa.Connection, series: _Series, keep_from: datetime) -> list[str]:
    dropped = []
    for one in _partitions(connection, series.table):
        # Only a run that was interrupted after DETACH leaves a table that is no partition.
        if one.ends_at is not None:
            if one.ends_at > keep_from or _is_needed(connection, series, one):
                continue
            how = "FINALIZE" if one.pending else "CONCURRENTLY"
            connection.exec_driver_sql(
                f"ALTER TABLE {series.table} DETACH PARTITION {one.name} {how}"
            )
        connection.exec_driver_sql(f"DROP TABLE {one.name}")
        dropped.append(one.name)
    return dropped


def _is_needed(connection: sa.Connection, series: _Series, one: sa.Row[tuple[object, ...]]) -> bool:
    """Tell whether a partition holds rows of which the next rollup is not made yet."""
    if series.rollup is None or one.pending:
        return False
    statement = sa.text(
        f"SELECT rolled_up(:rollup) < :ends_at AND EXISTS (SELECT FROM {one.name})"  # noqa: S608 - our own name
    )
    values = {"rollup": series.rollup, "ends_at": one.ends_at}
    return bool(connection.execute(statement, values).scalar())


def _partitions(connection: sa.Connection, table: str) -> list[sa.Row[tuple[object, ...]]]:
    return [*connection.execute(_PARTITIONS, {"table": table})]


def _attached(connection: sa.Connection, table: str) -> list[sa.Row[tuple[object, ...]]]:
    return [one for one in _partitions(connection, table) if one.ends_at is not None]


_PARTITIONS = sa.text("""
SELECT c.relname AS name, i.inhdetachpending AS pending,
    CAST(bounds.found[1] AS timestamptz) AS starts_at,
    CAST(bounds.found[2] AS timestamptz) AS ends_at
FROM pg_class c
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = CAST(:table AS regclass)
LEFT JOIN LATERAL regexp_match(
    pg_get_expr(c.relpartbound, c.oid), 'FROM [(]''(.*)''[)] TO [(]''(.*)''[)]') AS bounds (found)
    ON true
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
  AND c.relname ~ ('^' || :table || '_[0-9]{8}_[0-9]{4}$')
ORDER BY c.relname
""")
