"""Bodies and answers about deployments."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from api.fleets.views import Slug
from api.views import Body, Notes, Reason, View
from tensorguard.rollouts.selector import MAX_CHARACTERS
from tensorguard.rollouts.states import AgentState, DeploymentState
from tensorguard.rollouts.strategy import parse_strategy
from tensorguard.services.deployments.deployments import Plan, Preview
from tensorguard.store.deployments import Deployment, DeploymentAgent, Failure, StageRow


class DeploymentPlan(Body):
    """Which release goes to whom, and how; without a strategy to everybody at once."""

    release_id: UUID
    fleets: Annotated[list[Slug], Field(min_length=1, max_length=500)]
    selector: Annotated[str, Field(max_length=MAX_CHARACTERS)] = ""
    strategy: dict[str, Any] = Field(default_factory=dict)

    def to_plan(self) -> Plan:
        """Return it as the use cases take it. Raises: BadStrategy."""
        return Plan(
            release_id=self.release_id,
            fleets=self.fleets,
            selector=self.selector,
            strategy=parse_strategy(self.strategy),
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
    """One stage; `agents` is how many were in it at the start."""

    stage: int
    percent: int
    agents: int | None
    started_at: datetime | None
    finished_at: datetime | None


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


class DeploymentDetail(DeploymentView):
    """A deployment with its stages."""

    stages: list[StageView]


class GroupView(View):
    """Agents that would start in the same state for the same reason, and a few of their ids."""

    state: AgentState
    reason: str
    agents: int
    sample: list[UUID]


class PreviewView(View):
    """What would start: how many agents each stage gets, and every group of agents."""

    stages: list[int]
    groups: list[GroupView]


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
    notified_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


def deployment_view(
    deployment: Deployment, counts: Mapping[UUID, Mapping[AgentState, int]]
) -> DeploymentView:
    """Return a deployment as a list shows it."""
    return DeploymentView(**_fields(deployment, counts))


def deployment_detail(
    deployment: Deployment,
    counts: Mapping[UUID, Mapping[AgentState, int]],
    stages: Sequence[StageRow],
) -> DeploymentDetail:
    """Return a deployment with its stages; its counts are those of the list."""
    return DeploymentDetail(
        **_fields(deployment, counts), stages=[StageView.model_validate(one) for one in stages]
    )


def preview_view(preview: Preview) -> PreviewView:
    """Return a preview as the api shows it."""
    groups = [GroupView.model_validate(group) for group in preview.groups]
    return PreviewView(stages=preview.stages, groups=groups)


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
