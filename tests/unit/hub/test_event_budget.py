"""The limits of events: 60 a minute, burst 1,000, 10,000 a day."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.event_budget import EventBudget

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


def spent(budget: EventBudget, most: int = 100_000) -> tuple[EventBudget, int]:
    """Spend until nothing more is allowed; return the budget and how many it were."""
    for count in range(most):
        if not budget.allows:
            return budget, count
        budget = budget.spend()
    return budget, most


def test_a_new_agent_has_a_burst_of_a_thousand() -> None:
    assert spent(EventBudget.full(NOON))[1] == 1_000


@pytest.mark.parametrize(("waited_s", "allowed"), [(0.5, 0), (1, 1), (60, 60), (7_200, 1_000)])
def test_sixty_a_minute_come_back_up_to_the_burst(waited_s: float, allowed: int) -> None:
    empty, _ = spent(EventBudget.full(NOON))
    assert spent(empty.refill(NOON + timedelta(seconds=waited_s)))[1] == allowed


def test_waiting_in_small_steps_gives_no_more_and_no_less() -> None:
    budget, _ = spent(EventBudget.full(NOON))
    for tenth in range(1, 601):
        budget = budget.refill(NOON + timedelta(milliseconds=100 * tenth))
    assert budget.tokens == pytest.approx(60, abs=1e-6)


def test_no_more_than_ten_thousand_a_day_and_anew_the_next_day() -> None:
    midnight = NOON.replace(hour=0)
    budget, total = spent(EventBudget.full(midnight))
    at = midnight
    while total < 10_000:
        at += timedelta(minutes=10)
        budget, more = spent(budget.refill(at))
        total += more
    assert total == 10_000
    assert at.date() == midnight.date()
    assert not budget.refill(midnight + DAY - SECOND).allows
    assert spent(budget.refill(midnight + DAY))[1] == 1_000


def test_a_clock_that_steps_back_gives_nothing_and_takes_nothing() -> None:
    budget, _ = spent(EventBudget.full(NOON))
    back = budget.refill(NOON - DAY)
    assert (back.tokens, back.day_count, back.day) == (budget.tokens, 1_000, NOON.date())
    assert spent(back.refill(NOON + 5 * SECOND))[1] == 5


@given(
    st.lists(
        st.tuples(st.timedeltas(timedelta(hours=-30), timedelta(hours=30)), st.integers(0, 1_500)),
        max_size=25,
    )
)
def test_whatever_the_clock_does_no_limit_is_ever_passed(
    steps: list[tuple[timedelta, int]],
) -> None:
    budget, at, newest = EventBudget.full(NOON), NOON, NOON
    allowed, by_day = 0, dict[object, int]()
    for step, wanted in steps:
        at += step
        newest = max(newest, at)
        budget, count = spent(budget.refill(at), wanted)
        allowed += count
        by_day[budget.day] = by_day.get(budget.day, 0) + count
        assert 0 <= budget.tokens <= 1_000
        assert allowed <= 1_000 + (newest - NOON).total_seconds() + 1e-6
        assert max(by_day.values()) <= 10_000


def test_excess_is_counted_dated_and_chained_and_survives_a_refill() -> None:
    empty, _ = spent(EventBudget.full(NOON))
    first, second = hashlib.sha256(b"one").digest(), hashlib.sha256(b"two").digest()
    budget = empty.exceed(first, NOON).refill(NOON + SECOND).exceed(second, NOON + SECOND)
    chain = hashlib.sha256(hashlib.sha256(first).digest() + second).digest()
    assert (budget.excess, budget.excess_since) == (2, NOON)
    assert budget.excess_sha256 == chain
