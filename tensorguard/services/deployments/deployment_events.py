"""What the ledger keeps of deployments; listed again in evidence/events.py."""

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


class DeploymentMoved(Event, frozen=True, kw_only=True):
    """A move of a deployment's state machine; the subclasses name it."""

    SUBJECT = ("deployment", "deployment_id")
    deployment_id: UUID
    reason: str | None = None
    stage: int | None = None


class DeploymentStarted(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.started"


class DeploymentAdvanced(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.advanced"


class DeploymentPaused(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.paused"


class DeploymentResumed(DeploymentMoved, frozen=True, kw_only=True):
    TYPE = "deployment.resumed"


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
