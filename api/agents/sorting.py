"""Orders of the list of agents, and what a cursor holds in each."""

import math
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa

Sort = Literal[
    "name",
    "-name",
    "created",
    "-created",
    "heartbeat",
    "-heartbeat",
    "trust",
    "-trust",
    "cpu",
    "-cpu",
    "memory",
    "-memory",
    "disk",
    "-disk",
    "expiry",
    "-expiry",
]
_TIMES = frozenset({"created", "heartbeat", "expiry"})


def place_of(sort: Sort, row: sa.RowMapping) -> tuple[str, str, str]:
    """Return where a row stands in its order; the order stands in it, too."""
    place = row["place"]
    return sort, place.isoformat() if isinstance(place, datetime) else str(place), str(row["id"])


def parse_place(sort: Sort, values: list[Any]) -> tuple[Any, UUID]:
    """Read what `place_of` wrote.

    Raises: ValueError, TypeError or IndexError where it was written for another order.
    """
    written_for, place, agent_id = values
    if written_for != sort:
        raise ValueError("the cursor belongs to another order")
    return _parse(sort.removeprefix("-"), place), UUID(agent_id)


def _parse(key: str, place: str) -> str | float | datetime:
    if key == "name":
        return str(place)
    if key in _TIMES:
        at = datetime.fromisoformat(place)
        if at.tzinfo is None:
            raise ValueError("not an aware time")
        return at
    number = float(place)
    if not math.isfinite(number):
        raise ValueError("not a number")
    return number
