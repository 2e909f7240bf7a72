"""What a deployment does next, by its counts alone: pure, so that any leader decides the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tensorguard.rollouts.gates import GateReport, Verdict, judge
from tensorguard.rollouts.metrics import Reading
from tensorguard.rollouts.states import RollbackState, find_ending
from tensorguard.rollouts.strategy import Strategy
from tensorguard.rollouts.tally import Tally, add_up


class Move(StrEnum):
    """What is to be done; `compare`: read the metrics of the soak and decide again."""

    WAIT = "wait"
    COMPARE = "compare"
    ADVANCE = "advance"
    PAUSE = "pause"
    ROLL_BACK = "roll-back"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Decision:
    """A move, why, and what the stage's gate has said, where it has one."""

    move: Move
    reason: str = ""
    report: GateReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a running deployment stands: counts of every stage, and which one is under way.

    `waited`: whoever is offline had time to come. `trouble`: why its package must go to nobody
    else, if so.
    """

    strategy: Strategy
    stage: int
    tallies: Sequence[Tally]
    held_since: datetime | None
    waited: bool
    trouble: str | None = None
    readings: Sequence[Reading] | None = None


def decide(standing: Standing, now: datetime) -> Decision:
    """Return what a running deployment has to do now."""
    if standing.trouble is not None:
        return Decision(Move.PAUSE, standing.trouble)
    stage = standing.strategy.stages[standing.stage]
    last = standing.stage == len(standing.strategy.stages) - 1
    if stage.gate is None:
        return _decide_ending(standing)
    report = judge(
        stage.gate,
        standing.tallies[: standing.stage + 1],
        held_since=standing.held_since,
        now=now,
        readings=standing.readings,
    )
    match report.verdict:
        case Verdict.WAITING | Verdict.HOLDING:
            return Decision(Move.WAIT, report.reason, report)
        case Verdict.COMPARING:
            return Decision(Move.COMPARE, report.reason, report)
        case Verdict.FAILED:
            rolls_back = standing.strategy.on_failure == "rollback"
            move = Move.ROLL_BACK if rolls_back else Move.PAUSE
            return Decision(move, f"stage {standing.stage + 1}: {report.reason}", report)
        case Verdict.STUCK | Verdict.INCONCLUSIVE:
            return Decision(Move.PAUSE, f"stage {standing.stage + 1}: {report.reason}", report)
        case Verdict.PASSED if last:
            return Decision(Move.COMPLETE, _remark(add_up(standing.tallies)), report)
        case Verdict.PASSED if stage.on_pass == "pause":  # noqa: S105 - a gate is passed here
            reason = f"stage {standing.stage + 1} has passed: advance when you are ready"
            return Decision(Move.PAUSE, reason, report)
        case Verdict.PASSED:
            return Decision(Move.ADVANCE, report.reason, report)


def _decide_ending(standing: Standing) -> Decision:
    total = add_up(standing.tallies)
    ending = find_ending(total.states, reachable=total.reachable, waited=standing.waited)
    if ending is None:
        return Decision(Move.WAIT, _on_the_way(total))
    return Decision(Move.COMPLETE, ending)


def find_rolled_back(
    counts: Mapping[RollbackState, int], *, reachable: int, waited: bool
) -> str | None:
    """Return with which remark everyone is back; None while somebody is on the way.

    `reachable` of those that are not back are present. Agents that stay away do not hold it up
    for ever: they get their release back when they return.
    """
    away = sum(counts.get(state, 0) for state in (RollbackState.WAITING, RollbackState.ASSIGNED))
    failed = counts.get(RollbackState.FAILED, 0)
    if reachable or (away and not waited):
        return None
    remarks = []
    if failed:
        remarks.append(f"{failed} agents could not go back")
    if away:
        remarks.append(f"{away} agents were offline; they go back when they return")
    return "; ".join(remarks)


def _on_the_way(total: Tally) -> str:
    if total.at_work:
        return f"{total.at_work} agents are on the way"
    if total.reachable:
        return f"{total.reachable} agents have not been told yet"
    return f"{total.offline} agents are offline"


def _remark(total: Tally) -> str:
    away = total.offline
    return f"{away} agents were offline; they get the release when they return" if away else ""
