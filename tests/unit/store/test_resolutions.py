"""Which resolution a range of telemetry is read in."""

from datetime import UTC, datetime, timedelta

import pytest

from tensorguard.store.resolutions import Resolution, choose_resolution

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
RETENTIONS = {
    Resolution.RAW: 2 * DAY,
    Resolution.MINUTE: 7 * DAY,
    Resolution.HOUR: 90 * DAY,
    Resolution.DAY: 730 * DAY,
}


@pytest.mark.parametrize(
    ("length", "resolution"),
    [
        (HOUR, "raw"),
        (6 * HOUR, "raw"),
        (6 * HOUR + timedelta(microseconds=1), "1m"),
        (3 * DAY, "1m"),
        (7 * DAY, "1h"),
        (60 * DAY, "1h"),
        (61 * DAY, "1d"),
        (730 * DAY, "1d"),
    ],
)
def test_the_longer_a_range_the_coarser_it_is_read(length: timedelta, resolution: str) -> None:
    assert choose_resolution(length, length, RETENTIONS) == resolution


@pytest.mark.parametrize(
    ("age", "resolution"),
    [(2 * DAY, "raw"), (3 * DAY, "1m"), (8 * DAY, "1h"), (91 * DAY, "1d"), (900 * DAY, "1d")],
)
def test_what_is_no_longer_kept_is_read_coarser(age: timedelta, resolution: str) -> None:
    assert choose_resolution(HOUR, age, RETENTIONS) == resolution


@pytest.mark.parametrize(
    ("resolution", "floor", "ceil"),
    [
        ("raw", "2026-03-04T05:06:07.000008", "2026-03-04T05:06:07.000008"),
        ("1m", "2026-03-04T05:06:00", "2026-03-04T05:07:00"),
        ("1h", "2026-03-04T05:00:00", "2026-03-04T06:00:00"),
        ("1d", "2026-03-04T00:00:00", "2026-03-05T00:00:00"),
    ],
)
def test_ranges_grow_to_whole_buckets(resolution: str, floor: str, ceil: str) -> None:
    at = datetime(2026, 3, 4, 5, 6, 7, 8, UTC)
    assert Resolution(resolution).floor(at) == datetime.fromisoformat(floor).replace(tzinfo=UTC)
    assert Resolution(resolution).ceil(at) == datetime.fromisoformat(ceil).replace(tzinfo=UTC)
    start = datetime(2026, 3, 4, tzinfo=UTC)
    assert Resolution(resolution).ceil(start) == Resolution(resolution).floor(start) == start
