"""Metric gates: the stage's agents against the rest of the fleet, over the soak."""

from dataclasses import dataclass
from enum import StrEnum

from tensorguard.rollouts.strategy import MetricGate


class MetricVerdict(StrEnum):
    """What a comparison says; where data is missing it says nothing."""

    WITHIN = "within"
    WORSE = "worse"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The mean of the means of `sent` agents, of `asked` who should have sent the figure."""

    mean: float | None
    sent: int
    asked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One figure on both sides."""

    metric: str
    stage: Side
    rest: Side


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricReport:
    """A comparison with its limit; `difference` is how much worse the stage is, in the unit.

    `change` is the same relative to the rest, None where the rest is at 0.
    """

    gate: MetricGate
    reading: Reading | None
    verdict: MetricVerdict
    reason: str
    difference: float | None = None
    change: float | None = None


def compare(gate: MetricGate, reading: Reading | None) -> MetricReport:
    """Judge one figure: missing data never passes."""
    if reading is None:
        return _inconclusive(gate, reading, "was not read")
    for name, side in (("the stage", reading.stage), ("the rest of the fleet", reading.rest)):
        if side.sent < gate.min_agents or side.mean is None:
            reason = f"{side.sent} agents of {name} sent it, {gate.min_agents} are needed"
            return _inconclusive(gate, reading, reason)
        if side.sent * 2 < side.asked:
            reason = f"only {side.sent} of {side.asked} agents of {name} sent it"
            return _inconclusive(gate, reading, reason)
    stage, rest = reading.stage.mean, reading.rest.mean
    assert stage is not None
    assert rest is not None
    difference = stage - rest if gate.worse_way == "higher" else rest - stage
    change = difference / abs(rest) if rest else None
    if gate.max_difference is not None:
        is_worse, limit = difference > gate.max_difference, f"by {gate.max_difference:g}"
    else:
        most = gate.max_change or 0.0
        is_worse = difference > 0 if change is None else change > most
        limit = f"by {most:.0%}"
    reason = f"{gate.metric} is {stage:.4g} against {rest:.4g} in the rest of the fleet"
    reason += f", and may be {gate.worse_way} {limit}" if is_worse else ""
    return MetricReport(
        gate=gate,
        reading=reading,
        verdict=MetricVerdict.WORSE if is_worse else MetricVerdict.WITHIN,
        reason=reason,
        difference=difference,
        change=change,
    )


def _inconclusive(gate: MetricGate, reading: Reading | None, why: str) -> MetricReport:
    reason = f"{gate.metric} says nothing: {why}"
    return MetricReport(
        gate=gate, reading=reading, verdict=MetricVerdict.INCONCLUSIVE, reason=reason
    )
