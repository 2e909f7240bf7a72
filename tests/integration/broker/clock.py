"""The time as a test says it is."""

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass
class Clock:
    """The system clock, moved by `offset` seconds."""

    offset: float = 0.0

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(datetime.now(UTC).timestamp() + self.offset, UTC)
