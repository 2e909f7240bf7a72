"""A platform in memory: the pure decisions of the package on agents that are plain objects.

It is what services and controller do with tables, small enough to be tried in every order.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from tensorguard.rollouts.decisions import Decision, Move, Standing, decide, find_rolled_back
from tensorguard.rollouts.gates import Verdict
from tensorguard.rollouts.presumption import Seen, Watch, presume
from tensorguard.rollouts.ramp import allowance
from tensorguard.rollouts.stages import assign_stages, rank, stage_of
from tensorguard.rollouts.states import (
    OPEN,
    STARTED,
    AgentState,
    DeploymentState,
    RollbackState,
    check_deployment_move,
    is_retryable,
    next_agent_state,
)
from tensorguard.rollouts.strategy import Strategy
from tensorguard.rollouts.tally import Tally

A, D, R = AgentState, DeploymentState, RollbackState
START = datetime.fromisoformat("2026-03-01T12:00:00+00:00")
INTERVAL = timedelta(seconds=10)
ENDED = (R.DONE, R.FAILED, R.SUPERSEDED, R.GONE)


@dataclass
class Document:
    """What an agent was told last: of which rollout, which package, in which revision."""

    rollout: int | None = None
    package: str | None = None
    revision: int = 0


@dataclass
class Agent:
    """A device: what it runs, whether it is there, and which document it has."""

    id: UUID
    online: bool = True
    revoked: bool = False
    heard_at: datetime = START
    runs: str | None = None
    document: Document = field(default_factory=Document)
    has: int = 0


@dataclass
class Row:
    """One agent in one rollout."""

    stage: int
    state: AgentState = A.PENDING
    reason: str = ""
    attempts: int = 0
    previous: str | None = None
    assigned_at: datetime | None = None
    notified_at: datetime | None = None
    started_at: datetime | None = None
    rollback: RollbackState | None = None


@dataclass
class Rollout:
    """A deployment of the package `package`."""

    number: int
    strategy: Strategy
    state: DeploymentState
    reason: str = ""
    stage: int = 0
    begun_at: datetime = START
    cutoffs: tuple[bytes, ...] = ()
    rows: dict[UUID, Row] = field(default_factory=dict)
    due: list[int] = field(default_factory=list)
    present: int = 0
    held_since: datetime | None = None
    advances: list[Decision] = field(default_factory=list)

    @property
    def package(self) -> str:
        return f"package-{self.number}"

    @property
    def salt(self) -> bytes:
        return self.number.to_bytes(16, "big")

    def tallies(self, agents: dict[UUID, Agent]) -> list[Tally]:
        found = []
        for stage, due in enumerate(self.due):
            rows = {one: row for one, row in self.rows.items() if row.stage == stage}
            states = Counter(row.state for row in rows.values())
            reachable = sum(
                row.state is A.PENDING and agents[one].online for one, row in rows.items()
            )
            found.append(Tally(states=states, reachable=reachable, due=due))
        return found


@dataclass
class Model:
    """Agents and rollouts; every method is an event, and `tick` is the controller's turn."""

    now: datetime = START
    agents: dict[UUID, Agent] = field(default_factory=dict)
    rollouts: list[Rollout] = field(default_factory=list)

    # What agents do

    def join(self, count: int) -> None:
        for _ in range(count):
            one = UUID(int=len(self.agents) + 1)
            self.agents[one] = Agent(one, heard_at=self.now)

    def turn(self, agent: Agent, *, online: bool) -> None:
        agent.online = online and not agent.revoked
        if agent.online:
            self.beat(agent)

    def revoke(self, agent: Agent) -> None:
        agent.revoked, agent.online = True, False

    def beat(self, agent: Agent) -> None:
        """A heartbeat: the document is repaired, and what runs is seen."""
        if not agent.online:
            return
        agent.heard_at, agent.has = self.now, agent.document.revision
        rollout, row = self._assigned(agent)
        if rollout is None or row is None:
            return
        if row.rollback is not None:
            if row.rollback is R.ASSIGNED and agent.runs == agent.document.package:
                row.rollback = R.DONE
        elif agent.runs == rollout.package:
            if row.state in OPEN or row.state in (A.TIMED_OUT, A.LOST) or row.reason == "lost":
                row.state, row.reason = A.SUCCEEDED, ""
        elif row.state is A.SUCCEEDED and rollout.state in (D.RUNNING, D.PAUSED):
            row.state, row.reason = A.FAILED, "reverted"

    def report(self, agent: Agent, state: AgentState) -> None:
        rollout, row = self._assigned(agent)
        if not agent.online or rollout is None or row is None or row.rollback is not None:
            return
        agent.heard_at = self.now
        row.state = next_agent_state(row.state, state, runs_it=agent.runs == rollout.package)
        row.notified_at = row.notified_at or self.now
        if row.state in STARTED:
            row.started_at = row.started_at or self.now

    def follow(self, agent: Agent) -> None:
        """The agent does as its document says, at once."""
        if agent.online and agent.document.package is not None:
            agent.runs = agent.document.package
        self.beat(agent)

    # What people do

    def start(self, strategy: Strategy) -> Rollout:
        rollout = Rollout(len(self.rollouts), strategy, D.DRAFT, begun_at=self.now)
        eligible = [one for one, agent in self.agents.items() if not agent.revoked]
        percents = [stage.percent for stage in strategy.stages]
        placed = assign_stages(rollout.salt, eligible, percents)
        rollout.cutoffs, rollout.present = placed.cutoffs, len(eligible)
        for one in eligible:
            rollout.rows[one] = self._row(rollout, self.agents[one], placed.places[one])
        rollout.due = [
            sum(row.stage == stage and row.state is A.PENDING for row in rollout.rows.values())
            for stage in range(len(percents))
        ]
        self._move(rollout, D.RUNNING, "started")
        self.rollouts.append(rollout)
        return rollout

    def pause(self, rollout: Rollout) -> None:
        self._move(rollout, D.PAUSED, "somebody")

    def resume(self, rollout: Rollout) -> None:
        self._move(rollout, D.RUNNING, "somebody")

    def abort(self, rollout: Rollout) -> None:
        self._move(rollout, D.ABORTED, "somebody")

    def roll_back(self, rollout: Rollout, why: str = "somebody") -> None:
        self._move(rollout, D.ROLLING_BACK, why)
        for row in rollout.rows.values():
            if row.assigned_at is not None or row.attempts:
                row.rollback = R.WAITING
            elif row.state is A.PENDING:
                row.state = A.SUPERSEDED

    def retry(self, rollout: Rollout) -> None:
        for row in rollout.rows.values():
            if is_retryable(row.state, row.attempts, rollout.strategy.timeouts.retries):
                row.state, row.reason, row.attempts = A.PENDING, "", row.attempts + 1
                row.assigned_at = row.notified_at = row.started_at = None

    # The controller

    def tick(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        for rollout in self.rollouts:
            match rollout.state:
                case D.RUNNING:
                    self._roll_out(rollout)
                case D.ROLLING_BACK:
                    self._go_back(rollout)
                case D.ABORTED:
                    self._withdraw(rollout)

    def _roll_out(self, rollout: Rollout) -> None:
        for one, agent in self.agents.items():
            if one not in rollout.rows and not agent.revoked:
                stage = stage_of(rank(rollout.salt, one), rollout.cutoffs)
                rollout.rows[one] = self._row(rollout, agent, stage)
        self._assign(rollout)
        self._observe(rollout)
        standing = Standing(
            strategy=rollout.strategy,
            stage=rollout.stage,
            tallies=rollout.tallies(self.agents),
            held_since=rollout.held_since,
            waited=self.now - rollout.begun_at >= timedelta(minutes=2),
        )
        decision = decide(standing, self.now)
        rollout.held_since = None if decision.report is None else decision.report.held_since
        match decision.move:
            case Move.ADVANCE:
                rollout.advances.append(decision)
                rollout.stage += 1
                rollout.held_since = None
            case Move.PAUSE:
                self._move(rollout, D.PAUSED, decision.reason)
            case Move.ROLL_BACK:
                self.roll_back(rollout, decision.reason)
            case Move.COMPLETE:
                self._move(rollout, D.COMPLETED, decision.reason)

    def _assign(self, rollout: Rollout) -> None:
        told = [row.assigned_at for row in rollout.rows.values() if row.assigned_at is not None]
        left = len(rollout.rows)
        if rollout.strategy.ramp is not None:
            left = allowance(
                rollout.strategy.ramp,
                successes=sum(row.state is A.SUCCEEDED for row in rollout.rows.values()),
                last_minute=sum(at > self.now - timedelta(seconds=60) for at in told),
                last_slice=sum(at > self.now - timedelta(seconds=10) for at in told),
            )
        for one, row in rollout.rows.items():
            agent = self.agents[one]
            if row.state is not A.PENDING or row.assigned_at is not None:
                continue
            if row.stage > rollout.stage or left <= 0:
                continue
            owner = agent.document.rollout
            if owner is not None and owner > rollout.number and self._keeps(owner):
                row.state = A.SUPERSEDED
                continue
            left -= 1
            row.assigned_at = self.now
            self._tell(agent, rollout.number, rollout.package)
            for other in self.rollouts:
                older = other.rows.get(one)
                if other is not rollout and older is not None:
                    if older.state in OPEN:
                        older.state = A.SUPERSEDED
                    if older.rollback in (R.WAITING, R.ASSIGNED):
                        older.rollback = R.SUPERSEDED

    def _keeps(self, number: int) -> bool:
        return self.rollouts[number].state not in (D.ABORTED, D.ROLLING_BACK, D.ROLLED_BACK)

    def _observe(self, rollout: Rollout) -> None:
        watch = Watch(heard_since=START, clock_since=START)
        for one, row in rollout.rows.items():
            agent = self.agents[one]
            if agent.revoked and row.state in OPEN:
                row.state = A.EXCLUDED
                continue
            if row.state is A.PENDING and row.assigned_at is not None and agent.online:
                row.state, row.notified_at = A.NOTIFIED, self.now
                continue
            seen = Seen(
                state=row.state,
                notified_at=row.notified_at,
                started_at=row.started_at,
                heard_at=agent.heard_at,
                interval=INTERVAL,
                soaks=row.stage == rollout.stage
                and rollout.strategy.stages[row.stage].gate is not None,
            )
            presumed = presume(seen, timeouts=rollout.strategy.timeouts, watch=watch, now=self.now)
            if presumed is not None:
                row.state, row.reason = presumed

    def _go_back(self, rollout: Rollout) -> None:
        for one, row in rollout.rows.items():
            agent = self.agents[one]
            if row.rollback is R.WAITING:
                if agent.document.rollout != rollout.number:
                    row.rollback = R.SUPERSEDED
                else:
                    self._tell(agent, rollout.number, row.previous)
                    row.rollback = R.ASSIGNED
            if row.rollback in (R.WAITING, R.ASSIGNED) and agent.revoked:
                row.rollback = R.GONE
            keeps = row.rollback is R.ASSIGNED and row.previous is None
            if keeps and agent.has == agent.document.revision:
                row.rollback = R.DONE
        counts = Counter(row.rollback for row in rollout.rows.values() if row.rollback)
        reachable = sum(
            row.rollback in (R.WAITING, R.ASSIGNED) and self.agents[one].online
            for one, row in rollout.rows.items()
        )
        remark = find_rolled_back(counts, reachable=reachable, waited=True)
        if remark is not None:
            self._move(rollout, D.ROLLED_BACK, remark)

    def _withdraw(self, rollout: Rollout) -> None:
        for one, row in rollout.rows.items():
            if row.state in (A.PENDING, A.NOTIFIED):
                agent = self.agents[one]
                if agent.document.rollout == rollout.number:
                    self._tell(agent, None, row.previous)
                row.state, row.reason = A.SUPERSEDED, "aborted"

    def _row(self, rollout: Rollout, agent: Agent, stage: int) -> Row:
        installed = agent.runs == rollout.package == agent.document.package
        state = A.ALREADY_INSTALLED if installed else A.PENDING
        return Row(stage, state, previous=agent.runs)

    def _tell(self, agent: Agent, rollout: int | None, package: str | None) -> None:
        agent.document = Document(rollout, package, agent.document.revision + 1)

    def _assigned(self, agent: Agent) -> tuple[Rollout | None, Row | None]:
        number = agent.document.rollout
        if number is None or agent.has != agent.document.revision:
            return None, None
        rollout = self.rollouts[number]
        return rollout, rollout.rows.get(agent.id)

    def _move(self, rollout: Rollout, to: DeploymentState, why: str) -> None:
        check_deployment_move(rollout.state, to)
        rollout.state, rollout.reason = to, why
        rollout.held_since = None


def passed_everything(rollouts: Iterable[Rollout]) -> bool:
    """Tell whether every advance was allowed by a gate that had passed."""
    return all(
        decision.report is not None and decision.report.verdict is Verdict.PASSED
        for rollout in rollouts
        for decision in rollout.advances
    )
