"""What agents do wrong: told at once, then by the minute; none lost, none counted twice."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from hub.batch import DeadLetter
from hub.dead_letters import poison_counts, poisoned
from hub.denials import DenialKey, denial_counts, denials
from hub.tallies import MAX_KEYS, Tallies, Tally
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


def counts(told: Sequence[tuple[DenialKey, Tally]]) -> list[int]:
    return [tally.count for _, tally in told]


def taken(
    tallies: Tallies[DenialKey], *reports: tuple[str, FrontDenied], now: datetime = NOON
) -> list[int]:
    """Take reports of a batch that is committed."""
    told, changed = tallies.count(denial_counts(reports), now)
    tallies.settle(changed)
    return counts(told)


def due(tallies: Tallies[DenialKey], now: datetime) -> list[int]:
    told = tallies.due(now)
    tallies.forget(told)
    return [count for count in counts(told) if count]


def test_the_first_is_told_at_once_and_the_rest_of_the_minute_in_one_sum() -> None:
    tallies = denials()
    assert taken(tallies, report(count=2)) == [2]
    assert taken(tallies, report(count=3), report(count=4)) == []
    assert due(tallies, NOON + MINUTE - timedelta(seconds=1)) == []
    assert due(tallies, NOON + MINUTE) == [7]


def test_what_goes_on_for_minutes_is_told_once_in_each() -> None:
    tallies = denials()
    assert taken(tallies, report()) == [1]
    for minute in range(1, 6):
        assert taken(tallies, report(), report(), now=NOON + (minute - 0.5) * MINUTE) == []
        assert due(tallies, NOON + minute * MINUTE) == [2]


def test_the_same_reports_in_one_batch_are_told_together() -> None:
    assert taken(denials(), report(count=2), report(count=3)) == [5]


def test_after_a_silent_minute_the_next_is_told_at_once_again() -> None:
    tallies = denials()
    assert taken(tallies, report()) == [1]
    assert due(tallies, NOON + MINUTE) == []
    assert taken(tallies, report(), now=NOON + MINUTE) == [1]


def test_agents_fronts_and_reasons_are_told_apart() -> None:
    told = taken(denials(), report(1), report(2), report(front="b"), report(reason="retain"))
    assert told == [1, 1, 1, 1]


def test_a_batch_that_fails_has_not_counted() -> None:
    tallies = denials()
    for _ in range(5):
        told, _ = tallies.count(denial_counts([report(count=3)]), NOON)
        assert counts(told) == [3]
    assert taken(tallies, report(count=3)) == [3]
    assert due(tallies, NOON + MINUTE) == []


def test_what_could_not_be_told_is_still_due_with_what_came_meanwhile() -> None:
    tallies = denials()
    taken(tallies, report())
    taken(tallies, report(count=5))
    failed = tallies.due(NOON + MINUTE)
    assert counts(failed) == [5]
    taken(tallies, report(count=2), now=NOON + MINUTE)
    assert due(tallies, NOON + MINUTE) == [7]


def test_what_comes_while_a_sum_is_being_told_is_not_forgotten() -> None:
    tallies = denials()
    taken(tallies, report())
    taken(tallies, report(count=5))
    told = tallies.due(NOON + MINUTE)
    taken(tallies, report(count=2), now=NOON + MINUTE)
    tallies.forget(told)
    assert due(tallies, NOON + 2 * MINUTE) == [2]


def test_a_storm_of_strangers_is_summed_up_without_names() -> None:
    tallies = denials()
    told, changed = tallies.count(
        denial_counts([report(agent) for agent in range(2 * MAX_KEYS)]), NOON
    )
    tallies.settle(changed)
    named = [key for key, _ in told if key[0] is not None]
    assert MAX_KEYS / 2 <= len(named) <= MAX_KEYS
    assert len(told) <= MAX_KEYS + 1
    assert sum(counts(told)) == 2 * MAX_KEYS
    assert taken(tallies, *(report(agent) for agent in range(5_000, 6_000))) == []
    assert due(tallies, NOON + MINUTE) == [1_000]


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(0, 40), st.booleans()),
        max_size=40,
    )
)
def test_every_denied_operation_is_told_exactly_once(
    steps: list[tuple[int, int, int, bool]],
) -> None:
    tallies, now, reported, total = denials(), NOON, 0, 0
    for agent, count, wait_s, fails in steps:
        now += timedelta(seconds=wait_s)
        told, changed = tallies.count(denial_counts([report(agent, count=count)]), now)
        if not fails:
            tallies.settle(changed)
            reported += count
            total += sum(counts(told))
        total += sum(due(tallies, now))
    total += sum(due(tallies, now + 2 * MINUTE))
    total += sum(due(tallies, now + 4 * MINUTE))
    assert total == reported


def test_dead_letters_are_counted_by_agent_kind_and_code_and_nobodys_are_not() -> None:
    def letter(agent: int | None, kind: str = "csr") -> DeadLetter:
        agent_id = None if agent is None else UUID(int=agent)
        digest = bytes(32)
        return DeadLetter(agent_id, "a", kind, "t", b"", 0, digest, "bad-message", "why", NOON)

    tallies = poisoned()
    letters = [letter(1), letter(1), letter(2), letter(1, "will"), letter(None)]
    told, changed = tallies.count(poison_counts(letters), NOON)
    tallies.settle(changed)
    assert [(key[0], key[2], tally.count) for key, tally in told] == [
        (UUID(int=1), "csr", 2),
        (UUID(int=2), "csr", 1),
        (UUID(int=1), "will", 1),
    ]
    again, changed = tallies.count(poison_counts(letters), NOON)
    assert again == []
