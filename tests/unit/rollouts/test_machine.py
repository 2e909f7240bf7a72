"""The invariants of deployments, whatever agents and people do and in whatever order."""

import copy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tensorguard.rollouts.gates import Verdict
from tensorguard.rollouts.stages import stage_size
from tensorguard.rollouts.states import AT_WORK, AgentState, DeploymentState, RollbackState
from tensorguard.rollouts.strategy import Gate, Ramp, Stage, Strategy
from tests.unit.rollouts.model import ENDED, Agent, Model, Rollout, passed_everything

A, D = AgentState, DeploymentState
MOVES = {
    "pause": (D.RUNNING,),
    "resume": (D.PAUSED,),
    "abort": (D.RUNNING, D.PAUSED),
    "roll_back": (D.RUNNING, D.PAUSED, D.COMPLETED),
    "retry": (D.RUNNING, D.PAUSED),
}
GATES = st.builds(
    Gate,
    min_reported=st.integers(1, 6),
    max_failure=st.sampled_from([0.0, 0.05, 0.3]),
    min_success=st.sampled_from([0.5, 0.9, 1.0]),
    soak_s=st.sampled_from([0, 30, 300]),
)
STAGES = st.sets(st.integers(1, 99), max_size=3).flatmap(
    lambda percents: st.tuples(
        *[st.builds(Stage, percent=st.just(one), gate=GATES) for one in sorted(percents)],
        st.builds(Stage, percent=st.just(100), gate=st.none() | GATES),
    )
)
STRATEGIES = st.builds(
    Strategy,
    stages=STAGES,
    on_failure=st.sampled_from(["pause", "rollback"]),
    ramp=st.none() | st.just(Ramp(initial_per_minute=6, max_per_minute=60)),
)
REPORTS = st.sampled_from(
    [A.NOTIFIED, A.DOWNLOADING, A.VERIFYING, A.ACTIVATING, A.SUCCEEDED, A.FAILED, A.REJECTED]
)


class Rollouts(RuleBasedStateMachine):
    """Random agents and people; every event is written down, so that it can be played again."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.log: list[tuple[str, tuple[Any, ...]]] = []
        self.seen: list[Model] = []

    def do(self, event: str, *arguments: Any) -> None:
        self.log.append((event, arguments))
        play(self.model, event, *arguments)
        self.seen.append(copy.deepcopy(self.model))

    @initialize(count=st.integers(1, 30))
    def begin(self, count: int) -> None:
        self.do("join", count)

    @rule(count=st.integers(1, 5))
    def agents_join(self, count: int) -> None:
        self.do("join", count)

    @precondition(lambda self: len(self.model.rollouts) < 3)
    @rule(strategy=STRATEGIES)
    def somebody_starts(self, strategy: Strategy) -> None:
        self.do("start", strategy)
        rollout = self.model.rollouts[-1]
        for index, stage in enumerate(strategy.stages):
            inside = sum(row.stage <= index for row in rollout.rows.values())
            assert inside == stage_size(stage.percent, rollout.present)

    @rule(which=st.integers(0, 40), online=st.booleans())
    def an_agent_comes_or_goes(self, which: int, online: bool) -> None:
        self.do("turn", which, online)

    @rule(which=st.integers(0, 40), state=REPORTS)
    def an_agent_reports(self, which: int, state: AgentState) -> None:
        self.do("report", which, state)

    @rule(which=st.sets(st.integers(0, 40), min_size=1, max_size=20))
    def agents_follow(self, which: set[int]) -> None:
        for one in sorted(which):
            self.do("follow", one)

    @rule(which=st.integers(0, 40))
    def an_agent_reverts(self, which: int) -> None:
        self.do("revert", which)

    @rule(which=st.integers(0, 40))
    def an_agent_is_revoked(self, which: int) -> None:
        self.do("revoke", which)

    @rule(seconds=st.sampled_from([0, 1, 10, 60, 121, 400, 1900]))
    def time_passes(self, seconds: int) -> None:
        self.do("tick", seconds)

    @rule(seconds=st.sampled_from([5, 30, 100]))
    def everybody_is_heard_and_time_passes(self, seconds: int) -> None:
        self.do("beat")
        self.do("tick", seconds)

    @precondition(lambda self: self.model.rollouts)
    @rule(which=st.integers(0, 2), move=st.sampled_from(sorted(MOVES)))
    def somebody_moves(self, which: int, move: str) -> None:
        self.do("move", which, move)

    @invariant()
    def nobody_is_told_before_its_stage(self) -> None:
        for rollout in self.model.rollouts:
            for row in rollout.rows.values():
                assert row.assigned_at is None or row.stage <= rollout.stage

    @invariant()
    def no_agent_gets_two_releases_at_once(self) -> None:
        for one in self.model.agents:
            at_work = [
                rollout.number
                for rollout in self.model.rollouts
                if (row := rollout.rows.get(one)) is not None
                and row.state in AT_WORK
                and row.rollback is None
                and rollout.state in (D.RUNNING, D.PAUSED)
            ]
            assert len(at_work) <= 1

    @invariant()
    def no_stage_begins_without_the_gate_before_it(self) -> None:
        assert passed_everything(self.model.rollouts)
        for rollout in self.model.rollouts:
            assert len(rollout.advances) == rollout.stage
            for decision in rollout.advances:
                report = decision.report
                assert report is not None
                assert report.verdict is Verdict.PASSED
                own, gate = report.own, report.gate
                assert not own.at_work
                assert own.good + own.bad >= min(gate.min_reported, own.due)
                if own.reported:
                    assert own.bad / own.reported <= gate.max_failure
                    assert own.good / own.reported >= gate.min_success

    def teardown(self) -> None:
        self.check_replay()
        self.check_rollback()

    def check_replay(self) -> None:
        """Whatever prefix of the events is played again ends where it ended."""
        again = Model()
        for (event, arguments), seen in zip(self.log, self.seen, strict=True):
            play(again, event, *arguments)
            assert again == seen

    def check_rollback(self) -> None:
        """From wherever it can be asked for, everybody who is there gets back."""
        model = self.model
        for rollout in model.rollouts[::-1]:
            if rollout.state not in MOVES["roll_back"]:
                continue
            model.roll_back(rollout)
            touched = [one for one, row in rollout.rows.items() if row.rollback is not None]
            for _ in range(3):
                model.tick(1)
                for agent in model.agents.values():
                    model.turn(agent, online=True)
                    model.follow(agent)
            model.tick(1)
            assert rollout.state is D.ROLLED_BACK
            for one in touched:
                row, agent = rollout.rows[one], model.agents[one]
                assert row.rollback in ENDED
                if row.rollback is RollbackState.DONE and row.previous is not None:
                    assert agent.runs == row.previous


def play(model: Model, event: str, *arguments: Any) -> None:
    """Let one event happen; what has no place now does nothing."""
    match event, arguments:
        case "join", (int(count),):
            model.join(count)
        case "start", (Strategy() as strategy,):
            model.start(strategy)
        case "turn", (int(which), bool(online)):
            model.turn(pick(model, which), online=online)
        case "report", (int(which), state):
            model.report(pick(model, which), state)
        case "follow", (int(which),):
            model.follow(pick(model, which))
        case "revert", (int(which),):
            agent = pick(model, which)
            agent.runs = None
            model.beat(agent)
        case "revoke", (int(which),):
            model.revoke(pick(model, which))
        case "beat", ():
            for agent in model.agents.values():
                model.beat(agent)
        case "tick", (int(seconds),):
            model.tick(seconds)
        case "move", (int(which), str(move)):
            rollout = pick_rollout(model, which)
            if rollout.state in MOVES[move]:
                getattr(model, move)(rollout)
        case _:
            raise AssertionError(event)


def pick(model: Model, which: int) -> Agent:
    return list(model.agents.values())[which % len(model.agents)]


def pick_rollout(model: Model, which: int) -> Rollout:
    return model.rollouts[which % len(model.rollouts)]


class TestInvariants(Rollouts.TestCase):
    settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@pytest.mark.deep
@pytest.mark.timeout(3600)
class TestInvariantsDeep(Rollouts.TestCase):
    settings = settings(max_examples=5000, stateful_step_count=50, deadline=None)
