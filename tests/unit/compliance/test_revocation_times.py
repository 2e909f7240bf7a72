"""Times of revocations by rank."""

import pytest

from tensorguard.services.compliance.revocation_times import sum_up_times


@pytest.mark.parametrize(
    ("times", "median", "p99", "longest"),
    [
        ([], None, None, None),
        ([5], 5, 5, 5),
        ([9, 1], 1, 9, 9),
        ([3, 1, 2], 2, 3, 3),
        (list(range(100, 0, -1)), 50, 99, 100),
        ([1] * 99 + [60_000], 1, 1, 60_000),
        ([1] * 98 + [60_000] * 2, 1, 60_000, 60_000),
    ],
)
def test_each_figure_is_a_time_that_so_many_took_no_longer_than(
    times: list[int], median: int | None, p99: int | None, longest: int | None
) -> None:
    found = sum_up_times(times, len(times) + 2)
    assert (found.median_ms, found.p99_ms, found.longest_ms) == (median, p99, longest)
    assert (found.measured, found.left_out) == (len(times), 2)
