"""Strategies: the default, and what is refused."""

from typing import Any

import pytest

from tensorguard.rollouts.errors import BadStrategy
from tensorguard.rollouts.strategy import (
    AT_ONCE,
    Gate,
    MetricGate,
    Ramp,
    Stage,
    Strategy,
    dump_strategy,
    parse_strategy,
)
from tensorguard.rollouts.windows import Window

SOAKED = {"metric": "cpu_percent", "max_change": 0.2}


def test_without_a_word_a_canary_of_a_tenth_comes_first_and_an_error_pauses() -> None:
    assert parse_strategy({}) == Strategy()
    assert [stage.percent for stage in Strategy().stages] == [10, 100]
    assert Strategy().on_failure == "pause"
    gate = Strategy().stages[0].gate
    assert gate is not None
    assert (gate.min_reported, gate.max_failure, gate.min_success) == (5, 0.05, 0.9)
    assert (gate.soak_s, Strategy().timeouts.in_progress_s) == (300, 1800)


def test_a_stage_before_the_last_never_is_without_a_gate() -> None:
    parsed = parse_strategy({"stages": [{"percent": 1}, {"percent": 100}]})
    assert parsed.stages == (Stage(percent=1, gate=Gate()), Stage(percent=100))


def test_what_is_stored_reads_back() -> None:
    metric = MetricGate(metric="metrics.fps", worse="lower", max_difference=3)
    strategy = Strategy(
        stages=(Stage(percent=20, gate=Gate(metrics=(metric,)), on_pass="pause"), *AT_ONCE.stages),
        on_failure="rollback",
        ramp=Ramp(initial_per_minute=10, factor=1.5, max_per_minute=100),
        window=Window(start="22:00", duration_s=3600, timezone="agent"),
        stratify="region",
        allow_downgrade=True,
    )
    assert parse_strategy(dump_strategy(strategy)) == strategy


def test_of_trust_less_is_worse_and_of_anything_else_more_unless_it_is_said() -> None:
    figures = {"trust": {}, "metrics.fps": {"worse": "lower"}, "cpu_percent": {}}
    metrics = [{"metric": name, "max_change": 0.1} | said for name, said in figures.items()]
    (gate,) = [stage.gate for stage in parse_strategy(staged(metrics=metrics)).stages if stage.gate]
    assert [one.worse for one in gate.metrics] == ["lower", "lower", "higher"]


def staged(**gate: Any) -> dict[str, Any]:
    return {"stages": [{"percent": 10, "gate": gate}, {"percent": 100}]}


@pytest.mark.parametrize(
    "value",
    [
        {"stages": []},
        {"stages": [{"percent": 50}]},
        {"stages": [{"percent": 100}, {"percent": 10}]},
        {"stages": [{"percent": 10}, {"percent": 10}, {"percent": 100}]},
        {"stages": [{"percent": 0}, {"percent": 100}]},
        {"stages": [{"percent": 101}]},
        {"stages": [{"percent": 100, "gates": {}}]},
        {"stages": [{"percent": 100, "on_pass": "celebrate"}]},
        staged(min_reported=0),
        staged(max_failure=1.1),
        staged(min_success=-0.1),
        staged(soak_s=-1),
        staged(metrics=[{"metric": "cpu_percent"}]),
        staged(metrics=[SOAKED | {"max_difference": 1}]),
        staged(metrics=[SOAKED | {"metric": "mood"}]),
        staged(metrics=[SOAKED], soak_s=0),
        {"stages": [{"percent": 100, "gate": {"metrics": [SOAKED]}}]},
        {"ramp": {"initial_per_minute": 10, "max_per_minute": 5}},
        {"ramp": {"initial_per_minute": 0, "max_per_minute": 5}},
        {"window": {"start": "25:00", "duration_s": 3600}},
        {"window": {"start": "02:00", "duration_s": 3600, "timezone": "Mars/Olympus"}},
        {"window": {"start": "02:00", "duration_s": 3600, "timezone": "../etc/passwd"}},
        {"timeouts": {"in_progress_s": 1}},
        {"timeouts": {"in_progress": "30m"}},
        {"on_failure": "ignore"},
        {"surprise": True},
        {"stages": "all"},
    ],
)
def test_a_strategy_that_cannot_be_kept_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(BadStrategy):
        parse_strategy(value)
