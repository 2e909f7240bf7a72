"""Native range partitions of the heartbeats, where TimescaleDB does not make chunks itself."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

AHEAD = 2
_LOCK = 7290412


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
    step: timedelta = row.heartbeat_partition
    step_s = step.total_seconds()
    first = datetime.fromtimestamp(now.timestamp() // step_s * step_s, UTC)
    made = []
    for offset in range(-1, AHEAD + 1):
        start = first + offset * step
        name = f"heartbeats_{start:%Y%m%d_%H%M}"
        if connection.execute(sa.text("SELECT to_regclass(:name)"), {"name": name}).scalar():
            continue
        # Names and bounds are ours: made of a date, never of input.
        connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE heartbeats INCLUDING ALL)")
        connection.exec_driver_sql(
            f"ALTER TABLE heartbeats ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{start.isoformat()}') TO ('{(start + step).isoformat()}')"
        )
        made.append(name)
    return made


def drop_expired_partitions(engine: sa.Engine, now: datetime | None = None) -> list[str]:
    """Drop partitions that lie wholly before the retention; return their names.

    `DETACH … CONCURRENTLY` first, in its own transaction, so that neither ingest nor a long SELECT
    waits. A partition that an interrupted run left half detached is finalised.
    """
    now = now or datetime.now(UTC)
    dropped = []
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        row = connection.execute(
            sa.text("SELECT engine, heartbeat_partition, heartbeat_retention FROM platform")
        ).one()
        if row.engine != "native":
            return []
        keep_from = now - row.heartbeat_retention - row.heartbeat_partition
        for name, pending in connection.execute(sa.text(_ATTACHED)).all():
            start = datetime.strptime(name, "heartbeats_%Y%m%d_%H%M").replace(tzinfo=UTC)
            if start >= keep_from:
                continue
            how = "FINALIZE" if pending else "CONCURRENTLY"
            connection.exec_driver_sql(f"ALTER TABLE heartbeats DETACH PARTITION {name} {how}")
            connection.exec_driver_sql(f"DROP TABLE {name}")
            dropped.append(name)
    return dropped


_ATTACHED = """
SELECT c.relname, i.inhdetachpending FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'heartbeats'::regclass ORDER BY c.relname
"""
