"""Native range partitions of the heartbeats, where TimescaleDB does not make chunks itself."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

AHEAD = 2
_LOCK = 7290412
_DROP_LOCK = 7290411


def ensure_partitions(connection: sa.Connection, now: datetime | None = None) -> list[str]:
    """Make the partitions of the last, this and the next intervals; return the names of new ones.

    `CREATE TABLE … LIKE` then `ATTACH`: `PARTITION OF` would block ingest behind a long SELECT.
    Several replicas may run it at once. Does nothing on TimescaleDB. The caller commits.
    """
    now = now or datetime.now(UTC)
    row = connection.execute(sa.text("SELECT engine, heartbeat_partition FROM platform")).one()
    if row.engine != "native":
        return []
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    covered = [
        (one.starts_at, one.ends_at)
        for one in connection.execute(sa.text(_PARTITIONS))
        if one.ends_at is not None
    ]
    made = []
    for start, end in _wanted(row.heartbeat_partition, now):
        # Another interval may have been in force until now: take over where its partitions end.
        overlapping = [ends for starts, ends in covered if starts < end and ends > start]
        start = max([start, *overlapping])
        if start >= end:
            continue
        name = f"heartbeats_{start:%Y%m%d_%H%M}"
        # Names and bounds are ours: made of a date, never of input.
        connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE heartbeats INCLUDING ALL)")
        connection.exec_driver_sql(
            f"ALTER TABLE heartbeats ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
        )
        made.append(name)
    return made


def _wanted(step: timedelta, now: datetime) -> list[tuple[datetime, datetime]]:
    step_s = step.total_seconds()
    first = datetime.fromtimestamp(now.timestamp() // step_s * step_s, UTC)
    starts = [first + offset * step for offset in range(-1, AHEAD + 1)]
    return [(start, start + step) for start in starts]


def drop_expired_partitions(engine: sa.Engine, now: datetime | None = None) -> list[str]:
    """Drop partitions that lie wholly before the retention; return their names.

    `DETACH … CONCURRENTLY` first, in its own transaction, so that neither ingest nor a long SELECT
    waits. What an interrupted run left half detached or detached is finished.
    While another process is at it, this one does nothing.
    """
    now = now or datetime.now(UTC)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        row = connection.execute(
            sa.text("SELECT engine, heartbeat_partition, heartbeat_retention FROM platform")
        ).one()
        if row.engine != "native":
            return []
        key = {"key": _DROP_LOCK}
        if not connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), key).scalar():
            return []
        try:
            return _drop_before(connection, now - row.heartbeat_retention)
        finally:
            connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), key)


def _drop_before(connection: sa.Connection, keep_from: datetime) -> list[str]:
    dropped = []
    for one in connection.execute(sa.text(_PARTITIONS)).all():
        # Only a run that was interrupted after DETACH leaves a table that is no partition.
        if one.ends_at is not None:
            if one.ends_at > keep_from:
                continue
            how = "FINALIZE" if one.pending else "CONCURRENTLY"
            connection.exec_driver_sql(f"ALTER TABLE heartbeats DETACH PARTITION {one.name} {how}")
        connection.exec_driver_sql(f"DROP TABLE {one.name}")
        dropped.append(one.name)
    return dropped


_PARTITIONS = """
SELECT c.relname AS name, i.inhdetachpending AS pending,
    CAST(bounds.found[1] AS timestamptz) AS starts_at,
    CAST(bounds.found[2] AS timestamptz) AS ends_at
FROM pg_class c
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'heartbeats'::regclass
LEFT JOIN LATERAL regexp_match(
    pg_get_expr(c.relpartbound, c.oid), 'FROM [(]''(.*)''[)] TO [(]''(.*)''[)]') AS bounds (found)
    ON true
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
  AND c.relname ~ '^heartbeats_[0-9]{8}_[0-9]{4}$'
ORDER BY c.relname
"""
