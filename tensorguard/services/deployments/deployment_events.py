"""What the ledger keeps of deployments; listed again in evidence/events.py."""

from datetime import datetime
from uuid import UUID

from tensorguard.services.evidence.event import Digest, Event


class DeploymentCreated(Event, frozen=True, kw_only=True):
    TYPE = "deployment.created"
    SUBJECT = ("deployment", "deployment_id")
    deployment_id: UUID
    release_id: UUID
    package_digest: Digest
    fleets: list[str]
    selector: str = ""
    allow_downgrade: bool | None = None
    percents: list[int] | None = None
    on_failure: str | None = None
    start_at: datetime | None = None


class DeploymentMoved(Event, frozen=True, kw_only=True):
    """A move of a deployment's state machine; the subclasses name it."""

    SUBJECT = ("deployment", "deployment_id")
    deployment_id: UUID
    reason: str | None = None
    stage: int | None = None


class DeploymentApprovalAsked(DeploymentMoved, frozen=True, kw_only=True):
    """A fleet demands a second person for it."""

    TYPE = "deployment.approval-asked"
    approval_id: UUID


class DeploymentScheduled(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.scheduled"
    start_at: datetime
    approved_by: str | None = None


class DeploymentStarted(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.started"
    approved_by: str | None = None


class DeploymentAdvanced(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.advanced"


class DeploymentPaused(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.paused"


class DeploymentResumed(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.resumed"


class DeploymentRetried(DeploymentMoved, frozen=True, kw_only=True):
    """Agents that it had not reached are sent the release again."""

    TYPE = "deployment.retried"
    agents: int


class DeploymentAborted(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.aborted"
    OUTCOME = "failure"


class DeploymentRollingBack(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.rolling-back"


class DeploymentRolledBack(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.rolled-back"
    to_package_digest: Digest | None = None


class DeploymentCompleted(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.completed"
    succeeded: int
    failed: int
