"""Which hubs are alive, and which of them has which partition: leases, kept in the database.

Times are the database's: hubs need not agree on theirs. A partition's epoch rises whenever it
changes hands, and what is done under an older epoch is refused, however late it comes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub import arrays
from tensorguard.store.engine import SessionMaker

LEASE = timedelta(seconds=10)

_JOIN = sa.text("""
    INSERT INTO hubs (id, started_at, lease_until) VALUES (:hub, now(), now() + :lease)
    ON CONFLICT (id) DO UPDATE SET lease_until = EXCLUDED.lease_until
""")
_BURY = sa.text("DELETE FROM hubs WHERE lease_until < now()")
_LIVE = sa.text("SELECT id FROM hubs WHERE lease_until > now() ORDER BY started_at, id")
_LEAVE = sa.text("DELETE FROM hubs WHERE id = :hub")
_RELEASE_ALL = sa.text("""
    UPDATE uplink_partitions SET hub_id = NULL, lease_until = NULL WHERE hub_id = :hub
""")
_ADD = sa.text("""
    INSERT INTO uplink_partitions (partition)
    SELECT generate_series(0, :partitions - 1) ON CONFLICT DO NOTHING
""")
_REMOVE = sa.text("DELETE FROM uplink_partitions WHERE partition >= :partitions")
_RENEW = sa.text("""
    UPDATE uplink_partitions p SET lease_until = now() + :lease
    FROM (SELECT partition FROM uplink_partitions WHERE hub_id = :hub
          ORDER BY partition FOR NO KEY UPDATE) AS mine
    WHERE p.partition = mine.partition RETURNING p.partition, p.epoch
""")
_TAKE = sa.text("""
    UPDATE uplink_partitions p
    SET hub_id = :hub, lease_until = now() + :lease, epoch = p.epoch + 1
    FROM (SELECT partition FROM uplink_partitions
          WHERE hub_id IS NULL OR lease_until < now()
          ORDER BY partition LIMIT :most FOR NO KEY UPDATE SKIP LOCKED) AS free
    WHERE p.partition = free.partition RETURNING p.partition, p.epoch
""")
_SEIZE = sa.text("""
    UPDATE uplink_partitions
    SET hub_id = :hub, lease_until = now() + :lease, epoch = epoch + 1
    WHERE partition = :partition RETURNING epoch
""")
_RAISE = sa.text("""
    UPDATE uplink_partitions SET epoch = greatest(epoch, :beyond) + 1
    WHERE partition = :partition AND hub_id = :hub RETURNING epoch
""")
_RELEASE = sa.text("""
    UPDATE uplink_partitions SET hub_id = NULL, lease_until = NULL
    WHERE hub_id = :hub AND partition = ANY(:partitions)
""")
# Until the transaction ends nobody can take them over, nor renew them.
_HOLD = sa.text("""
    SELECT p.partition FROM uplink_partitions p
    JOIN unnest(CAST(:partitions AS int[]), CAST(:epochs AS bigint[])) AS held (partition, epoch)
      ON p.partition = held.partition AND p.epoch = held.epoch
    WHERE p.hub_id = :hub ORDER BY p.partition FOR SHARE OF p
""")


@dataclass(frozen=True, slots=True)
class Standing:
    """A hub's place among those alive: `rank` from 0, by age; `hubs` counts it in."""

    rank: int
    hubs: int

    def quota(self, partitions: int) -> int:
        """Return how many partitions are this hub's; those of all hubs are all there are."""
        whole, rest = divmod(partitions, self.hubs)
        return whole + (self.rank < rest)


class Leases:
    """The leases of one hub."""

    def __init__(self, sessions: SessionMaker, hub_id: str, lease: timedelta = LEASE) -> None:
        self._sessions = sessions
        self.hub_id = hub_id
        self.lease = lease

    async def set_up(self, partitions: int) -> None:
        """Make one row for each partition."""
        async with self._sessions() as session, session.begin():
            await session.execute(_ADD, {"partitions": partitions})
            await session.execute(_REMOVE, {"partitions": partitions})

    async def join(self) -> Standing:
        """Be alive for one lease more; return this hub's place among those alive."""
        async with self._sessions() as session, session.begin():
            await session.execute(_JOIN, self._mine())
        async with self._sessions() as session, session.begin():
            await session.execute(_BURY)
            live = list((await session.execute(_LIVE)).scalars())
        rank = live.index(self.hub_id) if self.hub_id in live else len(live)
        return Standing(rank, max(len(live), rank + 1))

    async def renew(self) -> dict[int, int]:
        """Hold what is held for one lease more; return it: epochs by partition."""
        async with self._sessions() as session, session.begin():
            rows = (await session.execute(_RENEW, self._mine())).all()
        return {row.partition: row.epoch for row in rows}

    async def take(self, most: int) -> dict[int, int]:
        """Take over up to so many partitions that nobody holds; return their new epochs."""
        async with self._sessions() as session, session.begin():
            rows = (await session.execute(_TAKE, {**self._mine(), "most": most})).all()
        return {row.partition: row.epoch for row in rows}

    async def seize(self, partition: int) -> int:
        """Take a partition from whoever holds it; return its new epoch."""
        values = {**self._mine(), "partition": partition}
        async with self._sessions() as session, session.begin():
            return int((await session.execute(_SEIZE, values)).scalar_one())

    async def raise_epoch(self, partition: int, beyond: int) -> int | None:
        """Begin a partition anew, above its epoch and `beyond`; None if it is another hub's."""
        values = {"hub": self.hub_id, "partition": partition, "beyond": beyond}
        async with self._sessions() as session, session.begin():
            return (await session.execute(_RAISE, values)).scalar()

    async def release(self, partitions: Collection[int]) -> None:
        """Let others have these at once."""
        values = {"hub": self.hub_id, "partitions": sorted(partitions)}
        async with self._sessions() as session, session.begin():
            await session.execute(_RELEASE, values)

    async def leave(self) -> None:
        """Be no hub any more; others can have what this one held."""
        async with self._sessions() as session, session.begin():
            await session.execute(_RELEASE_ALL, {"hub": self.hub_id})
            await session.execute(_LEAVE, {"hub": self.hub_id})

    async def hold(self, session: AsyncSession, epochs: Mapping[int, int]) -> set[int]:
        """Return which of these partitions are held in these epochs; they stay so until commit."""
        values = {
            "hub": self.hub_id,
            "partitions": arrays.of_plain(sorted(epochs)),
            "epochs": arrays.of_plain(epochs[partition] for partition in sorted(epochs)),
        }
        return set((await session.execute(_HOLD, values)).scalars())

    def _mine(self) -> dict[str, object]:
        return {"hub": self.hub_id, "lease": self.lease}
