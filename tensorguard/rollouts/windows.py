"""Windows: at which time of day agents may begin, by one time zone or by each agent's own."""

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

AGENT_TIMEZONE: Final = "agent"


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Open each day from `start` (HH:MM, wall clock) for `duration_s` seconds.

    `timezone` is an IANA name, or `agent`: what each agent's facts say, else UTC.
    """

    start: Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    duration_s: Annotated[int, Meta(ge=60, le=86400)]
    timezone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"


def is_timezone(name: str) -> bool:
    """Tell whether this is the name of a time zone that is known here."""
    return _find_zone(name) is not None


def is_open(window: Window, now: datetime, *, zone: str | None = None) -> bool:
    """Tell whether agents may begin at `now`; `zone` is the agent's own.

    A start that the clock skips comes with the skip, one that comes twice counts the first time.
    """
    return any(start <= now < start + _duration(window) for start in _starts(window, now, zone))


def next_opening(window: Window, now: datetime, *, zone: str | None = None) -> datetime:
    """Return when the window opens next (UTC); `now` while it is open."""
    if is_open(window, now, zone=zone):
        return now
    return min(start for start in _starts(window, now, zone) if start > now)


def closed_zones(window: Window, zones: Iterable[str | None], now: datetime) -> list[str | None]:
    """Return those of these agents' time zones in which nobody may begin at `now`."""
    return [zone for zone in zones if not is_open(window, now, zone=zone)]


def _starts(window: Window, now: datetime, zone: str | None) -> list[datetime]:
    name = zone or "UTC" if window.timezone == AGENT_TIMEZONE else window.timezone
    found = _find_zone(name) or ZoneInfo("UTC")
    start, today = time.fromisoformat(window.start), now.astimezone(found).date()
    days = (today + timedelta(days=offset) for offset in (-1, 0, 1, 2))
    return [datetime.combine(day, start, found).astimezone(UTC) for day in days]


def _find_zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # unknown, a directory, no name at all
        return None


def _duration(window: Window) -> timedelta:
    return timedelta(seconds=window.duration_s)
