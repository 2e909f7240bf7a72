"""The validity window of a package against the clock."""

from datetime import UTC, datetime

from tensorguard.tgsp.errors import Expired, NotYetValid
from tensorguard.tgsp.manifest import Manifest


def to_seconds(now: datetime) -> int:
    """Give whole seconds since 1970 UTC of an aware time."""
    if now.tzinfo is None:
        raise ValueError("the time must be aware")
    return int(now.timestamp())


def check_window(manifest: Manifest, *, now_s: int) -> None:
    """Accept a manifest that is valid now; both ends of the window belong to it.

    Raises:
        NotYetValid, Expired
    """
    if now_s < manifest.not_before:
        raise NotYetValid(f"the package is valid from {format_time(manifest.not_before)} on")
    if manifest.not_after and now_s > manifest.not_after:
        raise Expired(f"the package was valid until {format_time(manifest.not_after)}")


def format_time(seconds: int) -> str:
    """Give a time as people read it; one beyond the calendar as its number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, ValueError, OSError):  # beyond the year 9999
        return f"second {seconds}"
