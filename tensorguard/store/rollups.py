"""Rollups of heartbeats by minute, hour and day on native partitions, made by the maintenance.

On TimescaleDB continuous aggregates do this. In both cases `heartbeats_1m`, `_1h` and `_1d` show
what is not rolled up yet as well, so that whoever reads them need not wait.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa

from tensorguard.store.history import read_settings
from tensorguard.store.resolutions import ROLLUPS, Resolution

LATE_AFTER = timedelta(minutes=10)
"""Heartbeats that are written later than this after they came are late: migration 0003 says so too.

Rolled up is what is older.
"""
BUDGET = timedelta(minutes=5)
"""So long one run may take; what it did not finish the next goes on with."""
_SETTLE_WITHIN_S = 5.0
_LOCK = 7290415
# What one transaction rolls up: minutes in tens, or an hour of them when it is far behind; of the
# others one bucket.
_WINDOWS = {
    Resolution.MINUTE: timedelta(minutes=10),
    Resolution.HOUR: timedelta(hours=1),
    Resolution.DAY: timedelta(days=1),
}
_FAR_BEHIND = timedelta(hours=3)


@dataclass(slots=True)
class RolledUp:
    """Rows written, by rollup, and how many late buckets were made again or came too late."""

    rows: dict[Resolution, int] = field(default_factory=dict)
    again: int = 0
    too_late: int = 0
    finished: bool = True


def roll_up(
    engine: sa.Engine,
    now: datetime | None = None,
    *,
    budget: timedelta = BUDGET,
    monotonic: Callable[[], float] = time.monotonic,
) -> RolledUp:
    """Bring the rollups up to ten minutes ago, and make those again for which heartbeats came late.

    Every step is a transaction that also moves the watermark, so that nothing is counted twice, and
    a run may be interrupted anywhere. While another process is at it, this one does nothing. Does
    nothing on TimescaleDB.
    """
    with engine.connect() as connection:
        settings = read_settings(connection)
        if settings.engine != "native":
            return RolledUp()
        key = {"key": _LOCK}
        if not connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), key).scalar():
            return RolledUp()
        # What a crash of the server takes back is done again: the watermark goes back with it.
        connection.execute(sa.text("SET synchronous_commit = off"))
        connection.commit()
        try:
            until = _settle(connection, monotonic)
            run = _Run(connection, monotonic() + budget.total_seconds(), monotonic)
            run.forget_before(until - settings.late_heartbeats)
            until = min(until, now - LATE_AFTER) if now is not None else until
            for resolution in ROLLUPS:
                run.repeat(resolution)
                run.proceed(resolution, resolution.floor(until))
                until = run.watermark(resolution)
            return run.result
        finally:
            connection.rollback()
            connection.execute(sa.text("RESET synchronous_commit"))
            connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), key)
            connection.commit()


def _settle(connection: sa.Connection, monotonic: Callable[[], float]) -> datetime:
    """Return up to when every heartbeat that is not late is to be seen.

    A transaction that is open for long holds this back, not the hubs that write meanwhile.
    """
    deadline = monotonic() + _SETTLE_WITHIN_S
    _take_mark(connection)
    connection.execute(_SET_MARK, {"at": connection.execute(_CLOCK).scalar_one()})
    connection.commit()
    while not _take_mark(connection) and monotonic() < deadline:
        time.sleep(0.05)
    settled = connection.execute(sa.text("SELECT settled_until FROM rollup_mark")).scalar_one()
    connection.commit()
    assert isinstance(settled, datetime)
    return settled - LATE_AFTER


def _take_mark(connection: sa.Connection) -> bool:
    """Settle up to the last mark if everything that wrote before it has ended."""
    taken = connection.execute(_TAKE_MARK).rowcount > 0
    connection.commit()
    return taken


@dataclass(slots=True)
class _Run:
    connection: sa.Connection
    deadline: float
    monotonic: Callable[[], float]
    result: RolledUp = field(default_factory=RolledUp)

    def forget_before(self, keep_from: datetime) -> None:
        """Drop the notes about heartbeats that came too late to be rolled up."""
        gone = self.connection.execute(_FORGET, {"keep_from": keep_from})
        self.result.too_late += gone.rowcount
        self.connection.commit()

    def watermark(self, resolution: Resolution) -> datetime:
        """Return until when a rollup is made."""
        found = self.connection.execute(_WATERMARK, {"rollup": resolution}).scalar_one()
        self.connection.commit()
        assert isinstance(found, datetime)
        return found

    def proceed(self, resolution: Resolution, until: datetime) -> None:
        """Roll up what has become old enough."""
        since = self.watermark(resolution)
        while since < until and self._has_time():
            far_behind = until - since > _FAR_BEHIND
            window = _WINDOWS[Resolution.HOUR if far_behind else Resolution.MINUTE]
            end = min(since + max(window, resolution.bucket), until)
            self._write(resolution, since, end)
            values = {"rollup": resolution, "watermark": end}
            self.connection.execute(_PROCEED, values)
            self.connection.commit()
            since = end

    def repeat(self, resolution: Resolution) -> None:
        """Roll up again where heartbeats came late, and note it for the next rollup."""
        until = self.watermark(resolution)
        while self._has_time():
            since = self.connection.execute(_EARLIEST_LATE, {"rollup": resolution}).scalar()
            if since is None:
                self.connection.commit()
                return
            end = since + _WINDOWS[resolution]
            values = {"rollup": resolution, "since": since, "until": end}
            self.result.again += self.connection.execute(_TAKE_LATE, values).scalar_one()
            end = min(end, until)
            if since < end:
                self._erase(resolution, since, end)
                self._write(resolution, since, end)
                self._note_coarser(resolution, since, end)
            self.connection.commit()

    def _has_time(self) -> bool:
        self.result.finished = self.monotonic() < self.deadline
        return self.result.finished

    def _erase(self, resolution: Resolution, since: datetime, until: datetime) -> None:
        self.connection.execute(
            sa.text(f"DELETE FROM rollup_{resolution} WHERE bucket >= :since AND bucket < :until"),  # noqa: S608 - one of three names
            {"since": since, "until": until},
        )

    def _write(self, resolution: Resolution, since: datetime, until: datetime) -> None:
        written = self.connection.execute(
            sa.text(f"INSERT INTO rollup_{resolution} SELECT * FROM roll_up_{resolution}(:a, :b)"),  # noqa: S608 - one of three names
            {"a": since, "b": until},
        )
        self.result.rows[resolution] = self.result.rows.get(resolution, 0) + written.rowcount

    def _note_coarser(self, resolution: Resolution, since: datetime, until: datetime) -> None:
        if resolution is Resolution.DAY:
            return
        coarser = ROLLUPS[ROLLUPS.index(resolution) + 1]
        bucket = coarser.floor(since)
        while bucket < until:
            self.connection.execute(_NOTE_LATE, {"rollup": coarser, "bucket": bucket})
            bucket += coarser.bucket


_CLOCK = sa.text("SELECT clock_timestamp()")
# The clock was read before this statement began: whoever wrote until then has a number below.
_SET_MARK = sa.text("""
    UPDATE rollup_mark SET at = :at,
        xact = CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint)
    WHERE settled_until = at
""")
_TAKE_MARK = sa.text("""
    UPDATE rollup_mark SET settled_until = at
    WHERE xact <= CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
""")
# What coarser ones are made of is kept longer by a day each.
_FORGET = sa.text("""
    DELETE FROM rollup_late WHERE bucket < :keep_from
        - CASE rollup WHEN '1h' THEN INTERVAL '1 day' WHEN '1d' THEN INTERVAL '2 days'
          ELSE INTERVAL '0' END
""")
_WATERMARK = sa.text("SELECT watermark FROM rollup_watermarks WHERE rollup = :rollup")
_PROCEED = sa.text("UPDATE rollup_watermarks SET watermark = :watermark WHERE rollup = :rollup")
_EARLIEST_LATE = sa.text("SELECT min(bucket) FROM rollup_late WHERE rollup = :rollup")
_TAKE_LATE = sa.text("""
    WITH taken AS (
        DELETE FROM rollup_late WHERE rollup = :rollup AND bucket >= :since AND bucket < :until
        RETURNING bucket
    ) SELECT count(DISTINCT bucket) FROM taken
""")
_NOTE_LATE = sa.text("INSERT INTO rollup_late (rollup, bucket) VALUES (:rollup, :bucket)")
