"""Which code counts when, and that none counts twice."""

from datetime import UTC, datetime, timedelta

import pytest

from tensorguard.services.people.totp import SECRET_BYTES, compute_code, find_step, step_at

SECRET = bytes(range(SECRET_BYTES))
NOW = datetime(2026, 3, 4, 12, 0, 7, tzinfo=UTC)
STEP = step_at(NOW)


@pytest.mark.parametrize(("offset", "counts"), [(-2, 0), (-1, 1), (0, 1), (1, 1), (2, 0)])
def test_a_code_counts_one_step_early_or_late(offset: int, counts: bool) -> None:
    code = compute_code(SECRET, STEP + offset)
    assert find_step(SECRET, code, after=0, now=NOW) == (STEP + offset if counts else None)


def test_a_step_that_was_used_and_those_before_it_count_no_more() -> None:
    codes = {offset: compute_code(SECRET, STEP + offset) for offset in (-1, 0, 1)}
    for offset, code in codes.items():
        found = find_step(SECRET, code, after=STEP, now=NOW)
        assert found == (STEP + 1 if offset == 1 else None)


def test_a_clock_that_goes_back_brings_no_code_back() -> None:
    earlier = NOW - timedelta(minutes=5)
    code = compute_code(SECRET, step_at(earlier))
    assert find_step(SECRET, code, after=STEP, now=earlier) is None


@pytest.mark.parametrize("code", ["", "0", "1234567", "abcdef", "١٢٣٤٥٦"])
def test_what_is_no_code_never_counts(code: str) -> None:
    assert find_step(SECRET, code, after=0, now=NOW) is None


def test_another_secret_has_other_codes() -> None:
    other = bytes(SECRET_BYTES)
    assert find_step(other, compute_code(SECRET, STEP), after=0, now=NOW) is None
