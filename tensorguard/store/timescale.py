"""What TimescaleDB does by itself, in jobs of its own: rolling up, compressing, dropping."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from tensorguard.store.history import HistorySettings, read_settings
from tensorguard.store.resolutions import ROLLUPS, Resolution

_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
# New jobs wait so long: one that starts at once meets the migration, or a test, at the same chunks.
_FIRST_AFTER = 5 * _MINUTE


@dataclass(frozen=True, slots=True)
class _Policy:
    """A job's kind, and the intervals of its configuration by name."""

    relation: str
    kind: str
    every: timedelta
    config: Mapping[str, timedelta]


def apply_settings(connection: sa.Connection) -> list[str]:
    """Make chunks and jobs what the settings say; return what was changed.

    The connection is in autocommit mode. Rollups are made for the first time here, of everything
    that there is. Does nothing on native partitions.
    """
    settings = read_settings(connection)
    if settings.engine != "timescale":
        return []
    changed = []
    for resolution in Resolution:
        relation, length = _relation(resolution), settings.partition_of(resolution)
        if connection.execute(_CHUNKS, {"relation": relation, "length": length}).scalar() is None:
            connection.execute(_SET_CHUNKS, {"relation": relation, "length": length})
            changed.append(f"chunks of {relation}")
    for policy in _policies(settings):
        if _ensure(connection, policy):
            changed.append(f"{policy.kind} of {policy.relation}")
    return changed


def _policies(settings: HistorySettings) -> list[_Policy]:
    late = settings.late_heartbeats
    policies = []
    for days, rollup in enumerate(ROLLUPS):
        # Wider from one to the next: a late minute is an hour's and a day's too.
        window = {"start_offset": late + days * _DAY, "end_offset": 10 * (days + 1) * _MINUTE}
        every = min(max(rollup.bucket, 5 * _MINUTE), timedelta(hours=1))
        policies.append(_Policy(_relation(rollup), "refresh", every, window))
    for days, resolution in enumerate(Resolution):
        relation, hour = _relation(resolution), timedelta(hours=1)
        after = settings.columnstore_after + (late + days * _DAY if days else timedelta(0))
        policies.append(_Policy(relation, "columnstore", hour, {"after": after}))
        retention = {"drop_after": settings.retentions[resolution]}
        policies.append(_Policy(relation, "retention", hour, retention))
    return policies


def _relation(resolution: Resolution) -> str:
    return "heartbeats" if resolution is Resolution.RAW else f"heartbeats_{resolution}"


def _ensure(connection: sa.Connection, policy: _Policy) -> bool:
    procedure, add, remove = _KINDS[policy.kind]
    names = {"relation": policy.relation, "procedure": procedure}
    job = connection.execute(_JOB, names).one_or_none()
    if job is not None:
        there = {name: job.config.get(_CONFIG_NAMES.get(name, name)) for name in policy.config}
        same = sa.text("SELECT CAST(:there AS interval) = :wanted")
        if all(
            connection.execute(same, {"there": there[name], "wanted": wanted}).scalar()
            for name, wanted in policy.config.items()
        ):
            return False
        connection.execute(sa.text(remove), {"relation": policy.relation})
    elif policy.kind == "refresh":
        until = policy.config["end_offset"]
        connection.execute(_REFRESH, {"relation": policy.relation, "until": until})
    connection.execute(
        sa.text(add),
        {"relation": policy.relation, "every": policy.every, "wait": _FIRST_AFTER, **policy.config},
    )
    return True


# The job's procedure, what adds it and what removes it.
_KINDS = {
    "refresh": (
        "policy_refresh_continuous_aggregate",
        "SELECT add_continuous_aggregate_policy(CAST(:relation AS regclass),"
        " start_offset => :start_offset, end_offset => :end_offset,"
        " schedule_interval => :every, initial_start => now() + :wait,"
        " buckets_per_batch => 60)",  # an hour of minutes in one transaction, not one or ten
        "SELECT remove_continuous_aggregate_policy(CAST(:relation AS regclass))",
    ),
    "columnstore": (
        "policy_compression",
        "CALL add_columnstore_policy(CAST(:relation AS regclass), after => :after,"
        " schedule_interval => :every, initial_start => now() + :wait)",
        "CALL remove_columnstore_policy(CAST(:relation AS regclass))",
    ),
    "retention": (
        "policy_retention",
        "SELECT add_retention_policy(CAST(:relation AS regclass), drop_after => :drop_after,"
        " schedule_interval => :every, initial_start => now() + :wait)",
        "SELECT remove_retention_policy(CAST(:relation AS regclass))",
    ),
}
_CONFIG_NAMES = {"after": "compress_after"}
_JOB = sa.text("""
    SELECT config FROM timescaledb_information.jobs
    WHERE proc_name = :procedure AND hypertable_name IN (:relation, (
        SELECT materialization_hypertable_name FROM timescaledb_information.continuous_aggregates
        WHERE view_name = :relation))
""")
_CHUNKS = sa.text("""
    SELECT true FROM timescaledb_information.dimensions
    WHERE time_interval = :length AND hypertable_name IN (:relation, (
        SELECT materialization_hypertable_name FROM timescaledb_information.continuous_aggregates
        WHERE view_name = :relation))
""")
_SET_CHUNKS = sa.text("SELECT set_chunk_time_interval(CAST(:relation AS regclass), :length)")
_REFRESH = sa.text("""
    CALL refresh_continuous_aggregate(CAST(:relation AS regclass), NULL, now() - :until,
        options => '{"buckets_per_batch": 60}')
""")
