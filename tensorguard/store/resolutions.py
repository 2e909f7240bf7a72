"""In which steps telemetry is kept: every heartbeat, or rolled up by minute, hour and day."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum


class Resolution(StrEnum):
    """The finest first."""

    RAW = "raw"
    MINUTE = "1m"
    HOUR = "1h"
    DAY = "1d"

    @property
    def bucket(self) -> timedelta:
        """What one row covers; a moment for a heartbeat."""
        return _BUCKETS[self]

    def floor(self, at: datetime) -> datetime:
        """Return the start of the bucket that a moment is in: buckets are UTC's."""
        if self is Resolution.RAW:
            return at
        return at - (at - _EPOCH) % self.bucket

    def ceil(self, at: datetime) -> datetime:
        """Return the first start of a bucket that is not before a moment."""
        floor = self.floor(at)
        return floor if floor == at else floor + self.bucket


ROLLUPS = (Resolution.MINUTE, Resolution.HOUR, Resolution.DAY)
_BUCKETS = {
    Resolution.RAW: timedelta(0),
    Resolution.MINUTE: timedelta(minutes=1),
    Resolution.HOUR: timedelta(hours=1),
    Resolution.DAY: timedelta(days=1),
}
_EPOCH = datetime.fromtimestamp(0, UTC)


def choose_resolution(
    length: timedelta, age: timedelta, retentions: Mapping[Resolution, timedelta]
) -> Resolution:
    """Return the finest resolution that is read for ranges of a length and goes back far enough.

    age: of the range's start. None goes back far enough: days.
    """
    for one in Resolution:
        if length <= _READ_FOR[one] and age <= retentions[one]:
            return one
    return Resolution.DAY


# An answer is made of some thousand rows at most, 21,600 where heartbeats come every second.
_READ_FOR = {
    Resolution.RAW: timedelta(hours=6),
    Resolution.MINUTE: timedelta(days=3),
    Resolution.HOUR: timedelta(days=60),
    Resolution.DAY: timedelta.max,
}
