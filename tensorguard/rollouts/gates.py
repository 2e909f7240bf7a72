"""Gates: what a stage has shown, and whether that stops it, lets it pass, or is not enough yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tensorguard.rollouts.metrics import MetricReport, MetricVerdict, Reading, compare
from tensorguard.rollouts.strategy import Gate
from tensorguard.rollouts.tally import Tally, add_up


class Verdict(StrEnum):
    """What a gate says at a moment.

    `holding`: everything is as it should be, and has to stay so for the soak. `comparing`: the
    soak is over, and its metrics have to be read. `stuck`: nothing more will come by itself.
    """

    WAITING = "waiting"
    HOLDING = "holding"
    COMPARING = "comparing"
    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """A verdict with everything that it rests on.

    `own` are the agents that the stage has added, `so_far` those and all before them;
    `min_reported` is the effective one. `failure` and `success` are shares of the reported ones.
    `held_since`: from when on everything holds; None: it does not.
    """

    verdict: Verdict
    reason: str
    gate: Gate
    own: Tally
    so_far: Tally
    min_reported: int
    failure: float | None
    success: float | None
    held_since: datetime | None = None
    passes_at: datetime | None = None
    metrics: tuple[MetricReport, ...] = ()


def judge(
    gate: Gate,
    tallies: Sequence[Tally],
    *,
    held_since: datetime | None,
    now: datetime,
    readings: Sequence[Reading] | None = None,
) -> GateReport:
    """Judge the stage that is the last of `tallies`, one for each stage up to it; failure first.

    `held_since` is what the report before this one said. `readings`: its metrics, once read.
    """
    own, so_far = tallies[-1], add_up(tallies)
    needed = min(gate.min_reported, own.due)
    found = {} if readings is None else {one.metric: one for one in readings}
    metrics = (
        () if readings is None else tuple(compare(m, found.get(m.metric)) for m in gate.metrics)
    )

    def say(verdict: Verdict, reason: str, since: datetime | None = None) -> GateReport:
        return GateReport(
            verdict=verdict,
            reason=reason,
            gate=gate,
            own=own,
            so_far=so_far,
            min_reported=needed,
            failure=own.bad / own.reported if own.reported else None,
            success=own.good / own.reported if own.reported else None,
            held_since=since,
            passes_at=None if since is None else since + gate.soak,
            metrics=metrics,
        )

    if why := _find_failure(gate, own, so_far):
        return say(Verdict.FAILED, why)
    if not own.left and not own.reported and not own.due:
        return say(Verdict.PASSED, "there is nobody in this stage", held_since or now)
    lacking = _find_lack(gate, own, needed)
    if lacking is not None:
        stuck = not own.left
        return say(Verdict.STUCK if stuck else Verdict.WAITING, lacking)
    # A clock that was set back must not make the soak longer than it is.
    since = now if held_since is None or held_since > now else held_since
    if now < since + gate.soak:
        return say(Verdict.HOLDING, f"everything has to hold for {gate.soak_s} s", since)
    if gate.metrics and readings is None:
        return say(Verdict.COMPARING, "the metrics of the soak have to be compared", since)
    for verdict, result in (
        (MetricVerdict.WORSE, Verdict.FAILED),
        (MetricVerdict.INCONCLUSIVE, Verdict.INCONCLUSIVE),
    ):
        for one in metrics:
            if one.verdict is verdict:
                return say(result, one.reason, since)
    return say(Verdict.PASSED, _describe(own), since)


def _find_failure(gate: Gate, own: Tally, so_far: Tally) -> str | None:
    """Return why the stage has failed: its own agents, or those up to it, which may fall later."""
    for who, tally in (("", own), (" so far", so_far)):
        enough = max(1, min(gate.min_reported, tally.due))
        if tally.reported >= enough and tally.bad / tally.reported > gate.max_failure:
            share = tally.bad / tally.reported
            return (
                f"{tally.bad} of {tally.reported} agents{who} ({share:.1%}) failed,"
                f" {gate.max_failure:.1%} may"
            )
    return None


def _find_lack(gate: Gate, own: Tally, needed: int) -> str | None:
    """Return what is missing for the stage to pass; None where nothing is."""
    if own.at_work:
        return f"{own.at_work} agents are on the way"
    if own.reachable:
        return f"{own.reachable} agents have not been told yet"
    if own.reported < needed:
        away = f", {own.offline} agents are offline" if own.offline else ", and no more will come"
        return f"{own.reported} agents have reported, {needed} have to{away}"
    if own.reported and own.good / own.reported < gate.min_success:
        share = own.good / own.reported
        away = f"; {own.offline} agents are offline" if own.offline else ", and no more will come"
        return f"{share:.1%} succeeded, {gate.min_success:.1%} have to{away}"
    return None


def _describe(own: Tally) -> str:
    return f"{own.good} of {own.reported} agents succeeded"
