"""Reading hints by snapshots: each is seen once, in whatever order transactions commit.

A *snapshot* is PostgreSQL's `pg_snapshot` as text: which transactions had ended. A *position* is
the number of the oldest transaction that had not: everything before it has been seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True)
class StoredHint:
    """A row of stream_events as a reader needs it."""

    kind: str
    id: str | None
    fleet: str | None
    count: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """What has become visible, and the snapshot that shows it.

    `complete` is false if there was more than asked for, or something is no longer kept.
    """

    hints: Sequence[StoredHint]
    snapshot: str
    complete: bool

    @property
    def position(self) -> int:
        """The number from which to resume after this page."""
        return position_of(self.snapshot)


def position_of(snapshot: str) -> int:
    """Return the position of a snapshot."""
    return int(snapshot.partition(":")[0])


async def get_snapshot(session: AsyncSession) -> str:
    """Return what is visible now."""
    query = sa.text("SELECT CAST(pg_current_snapshot() AS text)")
    return str((await session.execute(query)).scalar_one())


async def read_since(session: AsyncSession, snapshot: str, *, limit: int) -> Page:
    """Return the hints that have become visible since a snapshot, `limit` at most."""
    rows = (await session.execute(_SINCE, {"snapshot": snapshot, "limit": limit + 1})).all()
    hints = [
        StoredHint(row.kind, row.subject_id, row.fleet, row.counted) for row in rows if row.kind
    ]
    return Page(hints[:limit], rows[0].now, len(hints) <= limit)


async def read_from(session: AsyncSession, position: int, *, until: str, limit: int) -> Page:
    """Return each hint once that a reader at `position` may have missed, up to a snapshot.

    Not heartbeats, which are over. Some of these the reader may know.
    """
    values = {"position": position, "until": until, "limit": limit + 1}
    rows = (await session.execute(_FROM, values)).all()
    # Afterwards, so that what was forgotten in between is noticed.
    kept = await is_kept(session, position)
    hints = [StoredHint(row.kind, row.subject_id, row.fleet, None) for row in rows[:limit]]
    return Page(hints, until, kept and len(rows) <= limit)


async def is_kept(session: AsyncSession, position: int) -> bool:
    """Tell whether every hint from `position` on is still there, and it is a position at all."""
    return bool((await session.execute(_KEPT, {"position": position})).scalar())


# One statement, one snapshot: the rows that it sees are the ones that `now` shows.
_SINCE = sa.text("""
    SELECT CAST(pg_current_snapshot() AS text) AS now,
           event.kind, event.subject_id, event.fleet, event.count AS counted
    FROM (SELECT CAST(:snapshot AS pg_snapshot) AS snapshot) AS before
    LEFT JOIN LATERAL (
        SELECT * FROM stream_events
        WHERE xact >= CAST(CAST(pg_snapshot_xmin(before.snapshot) AS text) AS bigint)
          AND NOT pg_visible_in_snapshot(CAST(CAST(xact AS text) AS xid8), before.snapshot)
        ORDER BY xact, id LIMIT :limit
    ) AS event ON true
""")
_FROM = sa.text("""
    SELECT kind, subject_id, fleet FROM stream_events
    WHERE xact >= :position AND kind <> 'heartbeats'
      AND pg_visible_in_snapshot(CAST(CAST(xact AS text) AS xid8), CAST(:until AS pg_snapshot))
    GROUP BY kind, subject_id, fleet LIMIT :limit
""")
_KEPT = sa.text("""
    SELECT :position BETWEEN (SELECT min(xact) FROM stream_events)
        AND CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint)
""")
