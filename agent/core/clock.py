"""Time as the agent sees it: what the system says, and a floor below which it cannot be."""

from datetime import datetime
from typing import NamedTuple


class Moment(NamedTuple):
    """One reading of both clocks: aware UTC, and monotonic seconds for intervals."""

    system: datetime
    monotonic_s: float


def agent_time(system: datetime, floor: datetime) -> datetime:
    """Return the time that every validity check uses (docs/protocol.md, Time)."""
    return max(system, floor)
