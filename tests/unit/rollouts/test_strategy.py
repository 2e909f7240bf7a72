"""Strategies: the default, and what is refused."""

import pytest

from tensorguard.rollouts.errors import BadStrategy
from tensorguard.rollouts.strategy import Stage, Strategy, dump_strategy, parse_strategy


def test_without_a_word_it_is_one_stage_of_everybody() -> None:
    assert parse_strategy({}) == Strategy()
    assert Strategy().stages == (Stage(percent=100),)


def test_what_is_stored_reads_back() -> None:
    strategy = Strategy(allow_downgrade=True)
    assert parse_strategy(dump_strategy(strategy)) == strategy


@pytest.mark.parametrize(
    "value",
    [
        {"stages": []},
        {"stages": [{"percent": 50}]},
        {"stages": [{"percent": 100}, {"percent": 10}]},
        {"stages": [{"percent": 10}, {"percent": 100}]},
        {"stages": [{"percent": 0}, {"percent": 100}]},
        {"stages": [{"percent": 100, "gates": {}}]},
        {"timeouts": {"in_progress_s": 1}},
        {"timeouts": {"in_progress": "30m"}},
        {"surprise": True},
        {"stages": "all"},
    ],
)
def test_a_strategy_that_cannot_be_kept_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(BadStrategy):
        parse_strategy(value)
