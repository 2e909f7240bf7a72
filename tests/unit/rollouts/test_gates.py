"""Gates, metrics, ramps and windows: what passes, what stops, what says nothing."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorguard.rollouts.gates import GateReport, Verdict, judge
from tensorguard.rollouts.metrics import MetricVerdict, Reading, Side, compare
from tensorguard.rollouts.ramp import allowance, rate_per_minute
from tensorguard.rollouts.states import AgentState
from tensorguard.rollouts.strategy import Gate, MetricGate, Ramp
from tensorguard.rollouts.tally import Tally
from tensorguard.rollouts.windows import Window, is_open, next_opening

A = AgentState
NOW = datetime.fromisoformat("2026-03-01T12:00:00+00:00")
GATE = Gate(min_reported=5, max_failure=0.05, min_success=0.9, soak_s=60)


def tally(*, reachable: int = 0, due: int = 10, **states: int) -> Tally:
    found = {AgentState(name): count for name, count in states.items()}
    return Tally(states=found, reachable=reachable, due=due)


def say(*tallies: Tally, gate: Gate = GATE, held_s: float | None = 60) -> GateReport:
    held = None if held_s is None else NOW - timedelta(seconds=held_s)
    return judge(gate, tallies, held_since=held, now=NOW)


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        (tally(succeeded=10), Verdict.PASSED),
        (tally(succeeded=9, failed=1), Verdict.FAILED),
        (tally(succeeded=3, failed=1, downloading=6), Verdict.WAITING),  # too few to judge
        (tally(succeeded=4, failed=1, downloading=5), Verdict.FAILED),  # at once, not at the end
        (tally(succeeded=9, activating=1), Verdict.WAITING),
        (tally(succeeded=9, notified=1), Verdict.WAITING),
        (tally(succeeded=9, pending=1, reachable=1), Verdict.WAITING),
        (tally(succeeded=9, pending=1), Verdict.PASSED),  # one is offline
        (tally(succeeded=4, pending=6), Verdict.WAITING),
        (tally(succeeded=4, rejected=6), Verdict.STUCK),
        (tally(rejected=10), Verdict.STUCK),
        (tally(succeeded=2, due=2), Verdict.PASSED),  # a small fleet: all of it has reported
        (tally(already_installed=10, due=0), Verdict.PASSED),
        (tally(excluded=10), Verdict.STUCK),  # the fleet was emptied
        (tally(due=0), Verdict.PASSED),
    ],
)
def test_a_gate_says(own: Tally, verdict: Verdict) -> None:
    assert say(own).verdict is verdict


def test_between_failing_and_passing_nothing_goes_on_by_itself() -> None:
    gate = Gate(max_failure=0.3, min_success=0.9, soak_s=0)
    assert say(tally(succeeded=8, failed=2), gate=gate).verdict is Verdict.STUCK
    assert say(tally(succeeded=8, failed=2, pending=1), gate=gate).verdict is Verdict.WAITING


def test_agents_of_earlier_stages_that_fall_later_stop_it_too() -> None:
    report = say(tally(succeeded=5, failed=5), tally(succeeded=10))
    assert report.verdict is Verdict.FAILED
    assert "so far" in report.reason


def test_a_soak_begins_anew_where_the_clock_was_set_back() -> None:
    report = say(tally(succeeded=10), held_s=-30)
    assert (report.verdict, report.held_since) == (Verdict.HOLDING, NOW)
    assert report.passes_at == NOW + timedelta(seconds=60)


SIDE = st.builds(
    Side,
    mean=st.none() | st.floats(-1e6, 1e6),
    sent=st.integers(0, 5),
    asked=st.integers(0, 10),
)


@given(SIDE, SIDE)
def test_missing_figures_never_pass(stage: Side, rest: Side) -> None:
    gate = MetricGate(metric="cpu_percent", max_change=0.2, min_agents=2)
    report = compare(gate, Reading(metric="cpu_percent", stage=stage, rest=rest))
    if report.verdict is MetricVerdict.WITHIN:
        for side in (stage, rest):
            assert side.mean is not None
            assert side.sent >= 2
            assert 2 * side.sent >= side.asked


@pytest.mark.parametrize(
    ("worse", "stage", "verdict"),
    [
        ("higher", 56.0, MetricVerdict.WORSE),
        ("higher", 47.9, MetricVerdict.WITHIN),
        ("higher", 10.0, MetricVerdict.WITHIN),
        ("lower", 10.0, MetricVerdict.WORSE),
        ("lower", 56.0, MetricVerdict.WITHIN),
    ],
)
def test_a_figure_is_judged_by_the_rest_of_the_fleet(
    worse: str, stage: float, verdict: MetricVerdict
) -> None:
    gate = MetricGate(metric="cpu_percent", worse=worse, max_change=0.2)
    sides = [Side(mean=mean, sent=3, asked=3) for mean in (stage, 40.0)]
    report = compare(gate, Reading(metric="cpu_percent", stage=sides[0], rest=sides[1]))
    assert report.verdict is verdict


@given(st.integers(0, 5000), st.integers(0, 200), st.integers(0, 200))
def test_a_ramp_rises_with_successes_and_never_beyond_its_rate(
    successes: int, last_minute: int, last_slice: int
) -> None:
    ramp = Ramp(initial_per_minute=10, factor=2, max_per_minute=100)
    rate = rate_per_minute(ramp, successes)
    assert 10 <= rate <= 100
    assert rate <= rate_per_minute(ramp, successes + 1)
    more = allowance(ramp, successes=successes, last_minute=last_minute, last_slice=last_slice)
    assert more == 0 or last_minute + more <= rate


@pytest.mark.parametrize(
    ("zone", "at", "expected"),
    [
        ("UTC", "2026-03-01T22:00:00+00:00", True),
        ("UTC", "2026-03-01T21:59:59+00:00", False),
        ("UTC", "2026-03-02T05:59:59+00:00", True),
        ("UTC", "2026-03-02T06:00:00+00:00", False),
        ("Asia/Tokyo", "2026-03-01T13:00:00+00:00", True),
        ("America/New_York", "2026-03-01T13:00:00+00:00", False),
        ("Not/Known", "2026-03-01T22:00:00+00:00", True),
        (None, "2026-03-01T22:00:00+00:00", True),
    ],
)
def test_a_window_is_open_by_the_agent_s_own_clock(
    zone: str | None, at: str, expected: bool
) -> None:
    window = Window(start="22:00", duration_s=8 * 3600, timezone="agent")
    assert is_open(window, datetime.fromisoformat(at), zone=zone) is expected


def test_a_window_opens_once_on_days_when_the_clock_is_changed() -> None:
    window = Window(start="02:30", duration_s=1800, timezone="Europe/Berlin")
    # 29 March 2026: 02:30 does not exist. 25 October: it comes twice.
    spring = datetime.fromisoformat("2026-03-28T12:00:00+00:00")
    assert next_opening(window, spring) == datetime.fromisoformat("2026-03-29T01:30:00+00:00")
    autumn = datetime.fromisoformat("2026-10-24T12:00:00+00:00")
    first = next_opening(window, autumn)
    assert first == datetime.fromisoformat("2026-10-25T00:30:00+00:00")
    assert not is_open(window, first + timedelta(hours=1))
