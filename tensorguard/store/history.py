"""How heartbeats and their rollups are kept: in what pieces and how long; one row of `platform`."""

from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from typing import Any, Literal

import sqlalchemy as sa

from tensorguard.store.errors import HistorySettingsInvalid
from tensorguard.store.resolutions import Resolution
from tensorguard.store.tables import platform

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """What an operator may set, and the engine, which nobody may."""

    engine: Literal["native", "timescale"]
    heartbeat_partition: timedelta
    """What one partition or chunk of heartbeats or minutes covers."""
    heartbeat_retention: timedelta
    rollup_1m_retention: timedelta
    rollup_1h_retention: timedelta
    rollup_1d_retention: timedelta
    late_heartbeats: timedelta
    """Heartbeats that are written so long after they came are still rolled up."""
    columnstore_after: timedelta
    """On TimescaleDB: when heartbeats are compressed."""

    @property
    def retentions(self) -> dict[Resolution, timedelta]:
        """How long rows of each resolution are kept."""
        return {
            Resolution.RAW: self.heartbeat_retention,
            Resolution.MINUTE: self.rollup_1m_retention,
            Resolution.HOUR: self.rollup_1h_retention,
            Resolution.DAY: self.rollup_1d_retention,
        }

    def partition_of(self, resolution: Resolution) -> timedelta:
        """What one partition or chunk covers."""
        return {
            Resolution.RAW: self.heartbeat_partition,
            Resolution.MINUTE: self.heartbeat_partition,
            Resolution.HOUR: 7 * _DAY,
            Resolution.DAY: 90 * _DAY,
        }[resolution]

    def check(self) -> None:
        """Refuse what would lose data or never end.

        Raises: HistorySettingsInvalid.
        """
        if not timedelta(minutes=10) <= self.heartbeat_partition <= 7 * _DAY:
            raise HistorySettingsInvalid("a partition covers ten minutes to seven days")
        if _DAY % self.heartbeat_partition and self.heartbeat_partition % _DAY:
            raise HistorySettingsInvalid("partitions divide a day, or are whole days")
        if self.late_heartbeats < timedelta(hours=1):
            raise HistorySettingsInvalid("late heartbeats are rolled up for an hour at least")
        if self.columnstore_after < timedelta(hours=1):
            raise HistorySettingsInvalid("heartbeats are compressed after an hour at the earliest")
        # Each rollup is made of the one before, again where something came late.
        for days, resolution in enumerate(Resolution, start=1):
            least = self.late_heartbeats + days * _DAY
            if self.retentions[resolution] < least:
                raise HistorySettingsInvalid(
                    f"{_name(resolution)} are kept for {least} at least:"
                    f" late heartbeats are rolled up for {self.late_heartbeats}"
                )


def _name(resolution: Resolution) -> str:
    return "heartbeats" if resolution is Resolution.RAW else f"rollups of {resolution}"


CHANGEABLE = tuple(field.name for field in fields(HistorySettings) if field.name != "engine")


def settings_query() -> sa.Select[Any]:
    """Return the query for the row of which `settings_of` makes settings."""
    return sa.select(*[platform.c[field.name] for field in fields(HistorySettings)])


def settings_of(row: sa.Row[Any]) -> HistorySettings:
    """Return the settings that a row of `settings_query` says."""
    return HistorySettings(**row._mapping)


def read_settings(connection: sa.Connection) -> HistorySettings:
    """Return the settings in force."""
    return settings_of(connection.execute(settings_query()).one())


def change_settings(connection: sa.Connection, **changes: timedelta) -> HistorySettings:
    """Set the named ones, as the owner, and return all; the caller commits.

    They take effect with the next maintenance.

    Raises: HistorySettingsInvalid.
    """
    current = settings_of(connection.execute(settings_query().with_for_update()).one())
    changed = HistorySettings(**asdict(current) | changes)
    changed.check()
    values = {name: value for name, value in asdict(changed).items() if name in CHANGEABLE}
    connection.execute(sa.update(platform).values(values))
    return changed
