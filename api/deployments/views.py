"""Bodies and answers about deployments."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from pydantic import AwareDatetime, Field

from api.fleets.views import Slug
from api.views import Body, Notes, Reason, View
from tensorguard.rollouts.gates import GateReport, Verdict
from tensorguard.rollouts.metrics import MetricReport, MetricVerdict
from tensorguard.rollouts.selector import MAX_CHARACTERS
from tensorguard.rollouts.states import AgentState, DeploymentState, RollbackState
from tensorguard.rollouts.strategy import Stage, parse_strategy
from tensorguard.rollouts.tally import Tally
from tensorguard.services.deployments.deployments import Plan
from tensorguard.services.deployments.draws import open_draw
from tensorguard.services.deployments.membership import Preview
from tensorguard.services.deployments.outlook import Outlook
from tensorguard.store.deployments import Deployment, DeploymentAgent, Failure, StageRow


class DeploymentPlan(Body):
    """Which release goes to whom, how and when.

    Without a strategy a tenth gets it first. `draw` is what a preview has answered: who is in which
    stage then is as it has shown.
    """

    release_id: UUID
    fleets: Annotated[list[Slug], Field(min_length=1, max_length=500)]
    selector: Annotated[str, Field(max_length=MAX_CHARACTERS)] = ""
    strategy: dict[str, Any] = Field(default_factory=dict)
    start_at: AwareDatetime | None = None
    draw: Annotated[str, Field(max_length=200)] | None = None

    def to_plan(self, key: bytes) -> Plan:
        """Return it as the use cases take it; `key` seals draws. Raises: BadStrategy, Invalid."""
        return Plan(
            release_id=self.release_id,
            fleets=self.fleets,
            selector=self.selector,
            strategy=parse_strategy(self.strategy),
            start_at=self.start_at,
            salt=None if self.draw is None else open_draw(key, self.draw),
        )


class DeploymentCreate(DeploymentPlan):
    """A new deployment; with `start` false it stays a draft."""

    start: bool = True


class DeploymentChange(Body):
    """Why; everybody sees it."""

    reason: Notes = ""


class DeploymentAbort(Body):
    """Why it ends; everybody sees it."""

    reason: Reason


class ReleaseSummary(View):
    """The release that a deployment rolls out."""

    id: UUID
    name: str
    version: str
    package_digest: str


class StageView(View):
    """One stage; `agents` is how many it had at the start, `due` of them had to get the release.

    `counts` are of those in it now; `verdict` is what its gate said when it decided something.
    """

    stage: int
    percent: int
    agents: int | None
    due: int | None
    counts: dict[AgentState, int]
    gate: dict[str, Any] | None
    on_pass: Literal["advance", "pause"]
    verdict: dict[str, Any] | None
    held_since: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


class TallyView(View):
    """Agents as a gate counts them."""

    good: int
    bad: int
    reported: int
    at_work: int
    reachable: int
    offline: int
    due: int


class MetricView(View):
    """One figure of the stage against the rest of the fleet; how many agents sent it of how many.

    `change` is relative to the rest and `difference` in the figure's unit: above 0 it is worse.
    """

    metric: str
    worse: Literal["higher", "lower"]
    max_change: float | None
    max_difference: float | None
    verdict: MetricVerdict
    reason: str
    stage_mean: float | None
    stage_sent: int
    stage_asked: int
    rest_mean: float | None
    rest_sent: int
    rest_asked: int
    change: float | None
    difference: float | None


class GateView(View):
    """The present stage's gate in numbers, each beside its threshold.

    `own` are the agents that the stage has added, `so_far` also those of the stages before it.
    """

    verdict: Verdict
    reason: str
    own: TallyView
    so_far: TallyView
    min_reported: int
    failure: float | None
    max_failure: float
    success: float | None
    min_success: float
    soak_s: int
    held_since: datetime | None
    passes_at: datetime | None
    metrics: list[MetricView]


class ActionView(View):
    """What people may do with it; `why_not` says why not now, if so."""

    name: str
    why_not: str | None


class RetriedView(View):
    """How many agents are sent the release once more."""

    agents: int


class DeploymentView(View):
    """A deployment; `counts` says how many of its agents are in each state."""

    id: UUID
    release: ReleaseSummary
    fleets: list[str]
    selector: str
    strategy: dict[str, Any]
    state: DeploymentState
    state_reason: str
    stage: int
    counts: dict[AgentState, int]
    revision: int
    created_at: datetime
    created_by: str
    started_at: datetime | None
    finished_at: datetime | None
    start_at: datetime | None
    approval_id: UUID | None


class DeploymentDetail(DeploymentView):
    """A deployment with its stages, and what is to come.

    `waits_for` says why it does not go on by itself just now; `gate` is that of the present stage.
    """

    stages: list[StageView]
    gate: GateView | None
    waits_for: str
    window_opens_at: datetime | None
    rate_per_minute: int | None
    rollback_counts: dict[RollbackState, int]
    actions: list[ActionView]


class GroupView(View):
    """Agents that would start in the same state for the same reason, and a few of their ids."""

    state: AgentState
    reason: str
    agents: int
    sample: list[UUID]


class PlannedStageView(View):
    """What a stage adds, the number of those that have to get the release, and the first by lot."""

    percent: int
    agents: int
    due: int
    sample: list[UUID]


class PreviewView(View):
    """What would start: how many agents each stage gets, and every group of agents.

    `draw` is for the deployment that shall start with just these stages; `names` says what the
    agents of the samples are called.
    """

    stages: list[int]
    groups: list[GroupView]
    planned: list[PlannedStageView]
    draw: str | None
    names: dict[UUID, str]


class FailureView(View):
    """Agents that ended in the same bad state for the same reason."""

    state: AgentState
    reason: str
    agents: int


class FailuresView(View):
    """Why agents do not run a release: what concerns the most of them first, `others` summed up."""

    groups: list[FailureView]
    others: int


class DeploymentAgentView(View):
    """How far one agent is, and why it is no further."""

    agent_id: UUID
    name: str
    fleet: str
    presence: str
    stage: int
    state: AgentState
    reason: str
    percent: int | None
    attempts: int
    assigned_at: datetime | None
    notified_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    rollback: RollbackState | None
    rollback_reason: str


def deployment_view(
    deployment: Deployment, counts: Mapping[UUID, Mapping[AgentState, int]]
) -> DeploymentView:
    """Return a deployment as a list shows it."""
    return DeploymentView(**_fields(deployment, counts))


def deployment_detail(
    deployment: Deployment,
    counts: Mapping[UUID, Mapping[AgentState, int]],
    stages: Sequence[StageRow],
    tallies: Sequence[Tally],
    rollback_counts: Mapping[RollbackState, int],
    outlook: Outlook,
) -> DeploymentDetail:
    """Return everything about a deployment; its counts are those of the list."""
    plan = parse_strategy(deployment.strategy).stages
    return DeploymentDetail(
        **_fields(deployment, counts),
        stages=[
            _stage_view(row, plan[row.stage], tally)
            for row, tally in zip(stages, tallies, strict=True)
        ],
        gate=None if outlook.gate is None else _gate_view(outlook.gate),
        waits_for=outlook.waits_for,
        window_opens_at=outlook.window_opens_at,
        rate_per_minute=outlook.rate_per_minute,
        rollback_counts=dict(rollback_counts),
        actions=[ActionView.model_validate(one) for one in outlook.actions],
    )


def _stage_view(row: StageRow, stage: Stage, tally: Tally) -> StageView:
    return StageView(
        stage=row.stage,
        percent=row.percent,
        agents=row.agents,
        due=row.due,
        counts=dict(tally.states),
        gate=None if stage.gate is None else msgspec.to_builtins(stage.gate),
        on_pass=stage.on_pass,
        verdict=row.gate,
        held_since=row.held_since,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _gate_view(report: GateReport) -> GateView:
    return GateView(
        verdict=report.verdict,
        reason=report.reason,
        own=TallyView.model_validate(report.own),
        so_far=TallyView.model_validate(report.so_far),
        min_reported=report.min_reported,
        failure=report.failure,
        max_failure=report.gate.max_failure,
        success=report.success,
        min_success=report.gate.min_success,
        soak_s=report.gate.soak_s,
        held_since=report.held_since,
        passes_at=report.passes_at,
        metrics=[_metric_view(one) for one in report.metrics],
    )


def _metric_view(report: MetricReport) -> MetricView:
    reading = report.reading
    return MetricView(
        metric=report.gate.metric,
        worse=report.gate.worse_way,
        max_change=report.gate.max_change,
        max_difference=report.gate.max_difference,
        verdict=report.verdict,
        reason=report.reason,
        stage_mean=None if reading is None else reading.stage.mean,
        stage_sent=0 if reading is None else reading.stage.sent,
        stage_asked=0 if reading is None else reading.stage.asked,
        rest_mean=None if reading is None else reading.rest.mean,
        rest_sent=0 if reading is None else reading.rest.sent,
        rest_asked=0 if reading is None else reading.rest.asked,
        change=report.change,
        difference=report.difference,
    )


def preview_view(
    preview: Preview, *, names: dict[UUID, str], draw: str | None = None
) -> PreviewView:
    """Return a preview as the api shows it."""
    groups = [GroupView.model_validate(group) for group in preview.groups]
    planned = [PlannedStageView.model_validate(one) for one in preview.planned]
    return PreviewView(
        stages=preview.stages, groups=groups, planned=planned, draw=draw, names=names
    )


def failures_view(failures: Sequence[Failure], *, all_agents: int) -> FailuresView:
    """Return failures as the api shows them, of so many agents that failed at all."""
    groups = [FailureView.model_validate(one) for one in failures]
    others = max(0, all_agents - sum(one.agents for one in groups))
    return FailuresView(groups=groups, others=others)


def agent_view(agent: DeploymentAgent) -> DeploymentAgentView:
    """Return an agent of a deployment as the api shows it."""
    return DeploymentAgentView.model_validate(agent)


def _fields(
    deployment: Deployment, counts: Mapping[UUID, Mapping[AgentState, int]]
) -> dict[str, Any]:
    elsewhere = {"release", "counts", "stages"}
    names = DeploymentView.model_fields.keys() - elsewhere
    return {name: getattr(deployment, name) for name in names} | {
        "counts": dict(counts.get(deployment.id, {})),
        "release": ReleaseSummary(
            id=deployment.release_id,
            name=deployment.release_name,
            version=deployment.release_version,
            package_digest=deployment.package_digest.hex(),
        ),
    }
