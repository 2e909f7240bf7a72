"""Denied operations: told at once, then summed up by the minute; none lost, none counted twice."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from hub.denials import MAX_KEYS, Denials, Told
from tensorguard.protocol.messages import FrontDenied

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def report(
    agent: int = 1, *, count: int = 1, front: str = "front-1", reason: str = "foreign-topic"
) -> tuple[str, FrontDenied]:
    message = FrontDenied(
        operation="publish", reason=reason, count=count, at=NOON, agent_id=UUID(int=agent)
    )
    return front, message


def counts(told: Told) -> list[int]:
    return [tally.count for _, tally in told]


def taken(denials: Denials, *reports: tuple[str, FrontDenied], now: datetime = NOON) -> list[int]:
    """Take reports of a batch that is committed."""
    told, changed = denials.take(reports, now)
    denials.settle(changed)
    return counts(told)


def due(denials: Denials, now: datetime) -> list[int]:
    told = denials.due(now)
    denials.forget(told)
    return [count for count in counts(told) if count]


def test_the_first_is_told_at_once_and_the_rest_of_the_minute_in_one_sum() -> None:
    denials = Denials()
    assert taken(denials, report(count=2)) == [2]
    assert taken(denials, report(count=3), report(count=4)) == []
    assert due(denials, NOON + MINUTE - timedelta(seconds=1)) == []
    assert due(denials, NOON + MINUTE) == [7]


def test_the_same_reports_in_one_batch_are_told_together() -> None:
    assert taken(Denials(), report(count=2), report(count=3)) == [5]


def test_after_a_silent_minute_the_next_is_told_at_once_again() -> None:
    denials = Denials()
    assert taken(denials, report()) == [1]
    assert due(denials, NOON + MINUTE) == []
    assert taken(denials, report(), now=NOON + MINUTE) == [1]


def test_agents_fronts_and_reasons_are_told_apart() -> None:
    told = taken(Denials(), report(1), report(2), report(front="b"), report(reason="retain"))
    assert told == [1, 1, 1, 1]


def test_a_batch_that_fails_has_not_counted() -> None:
    denials = Denials()
    for _ in range(5):
        told, _ = denials.take([report(count=3)], NOON)
        assert counts(told) == [3]
    assert taken(denials, report(count=3)) == [3]
    assert due(denials, NOON + MINUTE) == []


def test_what_could_not_be_told_is_still_due_with_what_came_meanwhile() -> None:
    denials = Denials()
    taken(denials, report())
    taken(denials, report(count=5))
    failed = denials.due(NOON + MINUTE)
    assert counts(failed) == [5]
    taken(denials, report(count=2), now=NOON + MINUTE)
    assert due(denials, NOON + MINUTE) == [7]


def test_what_comes_while_a_sum_is_being_told_is_not_forgotten() -> None:
    denials = Denials()
    taken(denials, report())
    taken(denials, report(count=5))
    told = denials.due(NOON + MINUTE)
    taken(denials, report(count=2), now=NOON + MINUTE)
    denials.forget(told)
    assert due(denials, NOON + 2 * MINUTE) == [2]


def test_a_storm_of_strangers_is_summed_up_without_names() -> None:
    denials = Denials()
    told, changed = denials.take([report(agent) for agent in range(2 * MAX_KEYS)], NOON)
    denials.settle(changed)
    named = [key for key, _ in told if key[0] is not None]
    assert MAX_KEYS / 2 <= len(named) <= MAX_KEYS
    assert len(told) <= MAX_KEYS + 1
    assert sum(counts(told)) == 2 * MAX_KEYS
    assert taken(denials, *(report(agent) for agent in range(5_000, 6_000))) == []
    assert due(denials, NOON + MINUTE) == [1_000]


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(0, 40), st.booleans()),
        max_size=40,
    )
)
def test_every_denied_operation_is_told_exactly_once(
    steps: list[tuple[int, int, int, bool]],
) -> None:
    denials, now, reported, total = Denials(), NOON, 0, 0
    for agent, count, wait_s, fails in steps:
        now += timedelta(seconds=wait_s)
        told, changed = denials.take([report(agent, count=count)], now)
        if not fails:
            denials.settle(changed)
            reported += count
            total += sum(counts(told))
        total += sum(due(denials, now))
    total += sum(due(denials, now + 2 * MINUTE))
    total += sum(due(denials, now + 4 * MINUTE))
    assert total == reported
