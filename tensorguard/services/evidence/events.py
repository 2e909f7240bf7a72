"""Every event the platform writes to the ledger: one type each, ids only.

A field is an id, a number, a digest, a role or a reason; never an e-mail address, the name of a
person or host, or a network address, because nothing is ever deleted from the ledger.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from tensorguard.services.certificates.certificate_events import (
    AgentMoveCancelled as AgentMoveCancelled,
)
from tensorguard.services.certificates.certificate_events import AgentMoved as AgentMoved
from tensorguard.services.certificates.certificate_events import (
    AgentMoveOrdered as AgentMoveOrdered,
)
from tensorguard.services.certificates.certificate_events import AgentRecovered as AgentRecovered
from tensorguard.services.certificates.certificate_events import (
    CertificateSuperseded as CertificateSuperseded,
)
from tensorguard.services.certificates.certificate_events import (
    RecoveryApproved as RecoveryApproved,
)
from tensorguard.services.certificates.certificate_events import (
    RecoveryRejected as RecoveryRejected,
)
from tensorguard.services.certificates.certificate_events import (
    RecoveryRequested as RecoveryRequested,
)
from tensorguard.services.compliance.compliance_events import ReportExported as ReportExported
from tensorguard.services.deployments.deployment_events import (
    DeploymentAborted as DeploymentAborted,
)
from tensorguard.services.deployments.deployment_events import (
    DeploymentAdvanced as DeploymentAdvanced,
)
from tensorguard.services.deployments.deployment_events import (
    DeploymentApprovalAsked as DeploymentApprovalAsked,
)
from tensorguard.services.deployments.deployment_events import (
    DeploymentCompleted as DeploymentCompleted,
)
from tensorguard.services.deployments.deployment_events import (
    DeploymentCreated as DeploymentCreated,
)
from tensorguard.services.deployments.deployment_events import DeploymentMoved as DeploymentMoved
from tensorguard.services.deployments.deployment_events import DeploymentPaused as DeploymentPaused
from tensorguard.services.deployments.deployment_events import (
    DeploymentResumed as DeploymentResumed,
)
from tensorguard.services.deployments.deployment_events import (
    DeploymentRetried as DeploymentRetried,
)
from tensorguard.services.deployments.deployment_events import (
    DeploymentRolledBack as DeploymentRolledBack,
)
from tensorguard.services.deployments.deployment_events import (
    DeploymentRollingBack as DeploymentRollingBack,
)
from tensorguard.services.deployments.deployment_events import (
    DeploymentScheduled as DeploymentScheduled,
)
from tensorguard.services.deployments.deployment_events import (
    DeploymentStarted as DeploymentStarted,
)
from tensorguard.services.deployments.package_events import PackageRefused as PackageRefused
from tensorguard.services.deployments.package_events import PackageUploaded as PackageUploaded
from tensorguard.services.deployments.package_events import PublisherChanged as PublisherChanged
from tensorguard.services.deployments.package_events import (
    PublisherRegistered as PublisherRegistered,
)
from tensorguard.services.deployments.package_events import PublisherRevoked as PublisherRevoked
from tensorguard.services.deployments.package_events import ReleaseCreated as ReleaseCreated
from tensorguard.services.deployments.package_events import ReleaseWithdrawn as ReleaseWithdrawn
from tensorguard.services.enrollment.manufacturer_events import (
    ManufacturerCaActivated as ManufacturerCaActivated,
)
from tensorguard.services.enrollment.manufacturer_events import (
    ManufacturerCaProven as ManufacturerCaProven,
)
from tensorguard.services.enrollment.manufacturer_events import (
    ManufacturerCaRegistered as ManufacturerCaRegistered,
)
from tensorguard.services.enrollment.manufacturer_events import (
    ManufacturerCaRevoked as ManufacturerCaRevoked,
)
from tensorguard.services.evidence.agent_events import AgentDenied as AgentDenied
from tensorguard.services.evidence.agent_events import AgentFlooding as AgentFlooding
from tensorguard.services.evidence.agent_events import AgentReported as AgentReported
from tensorguard.services.evidence.agent_events import EventConflict as EventConflict
from tensorguard.services.evidence.agent_events import EventMalformed as EventMalformed
from tensorguard.services.evidence.agent_events import EventsGap as EventsGap
from tensorguard.services.evidence.agent_events import MessagePoisoned as MessagePoisoned
from tensorguard.services.evidence.event import SYSTEM as SYSTEM
from tensorguard.services.evidence.event import Actor as Actor
from tensorguard.services.evidence.event import Digest as Digest
from tensorguard.services.evidence.event import Event as Event
from tensorguard.services.evidence.event import Outcome as Outcome
from tensorguard.services.evidence.event import Subject as Subject
from tensorguard.services.evidence.ledger_events import KeyCreated as KeyCreated
from tensorguard.services.evidence.ledger_events import LedgerEpochBegan as LedgerEpochBegan
from tensorguard.services.evidence.ledger_events import LedgerExported as LedgerExported
from tensorguard.services.evidence.ledger_events import LedgerForkSeen as LedgerForkSeen
from tensorguard.services.evidence.ledger_events import LedgerKeyCreated as LedgerKeyCreated
from tensorguard.services.evidence.ledger_events import LedgerKeyRetired as LedgerKeyRetired
from tensorguard.services.evidence.ledger_events import PrivateRead as PrivateRead
from tensorguard.services.evidence.ledger_events import SubjectErased as SubjectErased
from tensorguard.services.keys.key_events import KekAdded as KekAdded
from tensorguard.services.keys.key_events import KekExpiring as KekExpiring
from tensorguard.services.keys.key_events import KekImported as KekImported
from tensorguard.services.keys.key_events import KekReplaced as KekReplaced
from tensorguard.services.keys.key_events import KekRetired as KekRetired
from tensorguard.services.keys.key_events import KekRotated as KekRotated
from tensorguard.services.keys.key_events import KekUnusable as KekUnusable
from tensorguard.services.keys.key_events import KekUsable as KekUsable
from tensorguard.services.keys.key_events import KekVersionDestroyed as KekVersionDestroyed
from tensorguard.services.keys.key_events import KekVersionDisabled as KekVersionDisabled
from tensorguard.services.keys.key_events import KekVersionEnabled as KekVersionEnabled
from tensorguard.services.keys.key_events import RewrapEnded as RewrapEnded
from tensorguard.services.keys.key_events import RewrapFailed as RewrapFailed
from tensorguard.services.keys.key_events import RewrapStarted as RewrapStarted
from tensorguard.services.people.account_events import ApiKeyCreated as ApiKeyCreated
from tensorguard.services.people.account_events import ApiKeyRevoked as ApiKeyRevoked
from tensorguard.services.people.account_events import SessionFailed as SessionFailed
from tensorguard.services.people.account_events import SessionSignedIn as SessionSignedIn
from tensorguard.services.people.account_events import SessionSignedOut as SessionSignedOut
from tensorguard.services.people.account_events import UserCreated as UserCreated
from tensorguard.services.people.account_events import UserDisabled as UserDisabled
from tensorguard.services.people.account_events import UserPasswordReset as UserPasswordReset
from tensorguard.services.people.account_events import UserRoleChanged as UserRoleChanged
from tensorguard.services.people.second_person_events import ApprovalApproved as ApprovalApproved
from tensorguard.services.people.second_person_events import ApprovalExpired as ApprovalExpired
from tensorguard.services.people.second_person_events import ApprovalFailed as ApprovalFailed
from tensorguard.services.people.second_person_events import ApprovalRejected as ApprovalRejected
from tensorguard.services.people.second_person_events import ApprovalRequested as ApprovalRequested
from tensorguard.services.people.second_person_events import SecondFactorBegun as SecondFactorBegun
from tensorguard.services.people.second_person_events import (
    SecondFactorConfirmed as SecondFactorConfirmed,
)
from tensorguard.services.people.second_person_events import (
    SecondFactorFailed as SecondFactorFailed,
)
from tensorguard.services.people.second_person_events import (
    SecondFactorRemoved as SecondFactorRemoved,
)
from tensorguard.services.people.second_person_events import SecondFactorReset as SecondFactorReset
from tensorguard.services.people.second_person_events import SessionSteppedUp as SessionSteppedUp
from tensorguard.services.revocation.revocation_events import (
    AgentRevocationConfirmed as AgentRevocationConfirmed,
)
from tensorguard.services.revocation.revocation_events import (
    AgentRevocationPartial as AgentRevocationPartial,
)
from tensorguard.services.revocation.revocation_events import AgentRevoked as AgentRevoked
from tensorguard.services.revocation.revocation_events import (
    FleetRevocationConfirmed as FleetRevocationConfirmed,
)
from tensorguard.services.revocation.revocation_events import (
    FleetRevocationPartial as FleetRevocationPartial,
)
from tensorguard.services.revocation.revocation_events import FleetRevoked as FleetRevoked
from tensorguard.services.sinks.sink_events import SinkChanged as SinkChanged
from tensorguard.services.sinks.sink_events import SinkCreated as SinkCreated
from tensorguard.services.sinks.sink_events import (
    SinkDeadLetterDiscarded as SinkDeadLetterDiscarded,
)
from tensorguard.services.sinks.sink_events import SinkDeadLettered as SinkDeadLettered
from tensorguard.services.sinks.sink_events import (
    SinkDeadLettersReplayed as SinkDeadLettersReplayed,
)
from tensorguard.services.sinks.sink_events import SinkDeleted as SinkDeleted
from tensorguard.services.sinks.sink_events import SinkFailing as SinkFailing
from tensorguard.services.sinks.sink_events import SinkGap as SinkGap
from tensorguard.services.sinks.sink_events import SinkPaused as SinkPaused
from tensorguard.services.sinks.sink_events import SinkRecovered as SinkRecovered
from tensorguard.services.sinks.sink_events import SinkReplayed as SinkReplayed
from tensorguard.services.sinks.sink_events import SinkResumed as SinkResumed
from tensorguard.services.sinks.sink_events import SinkSecretRotated as SinkSecretRotated
from tensorguard.services.sinks.sink_events import SinkStopped as SinkStopped
from tensorguard.services.sinks.sink_events import SinkTested as SinkTested
from tensorguard.services.trust.trust_events import CaIssuing as CaIssuing
from tensorguard.services.trust.trust_events import CaRetired as CaRetired
from tensorguard.services.trust.trust_events import (
    ServiceCertificateRefused as ServiceCertificateRefused,
)
from tensorguard.services.trust.trust_events import ServiceCertified as ServiceCertified

# Platform


class PlatformInitialised(Event, frozen=True, kw_only=True):
    TYPE = "platform.initialised"
    SUBJECT = ("platform", "trust_domain")
    trust_domain: str


class TrustBundlePublished(Event, frozen=True, kw_only=True):
    """`signed_by`, `roots_added` and `roots_removed` are key ids of root keys."""

    TYPE = "trust-bundle.published"
    SUBJECT = ("trust-bundle", "version")
    version: int
    digest: Digest
    root_threshold: int | None = None
    signed_by: list[str] | None = None
    roots_added: list[str] | None = None
    roots_removed: list[str] | None = None


# Fleets and enrollment tokens


class FleetCreated(Event, frozen=True, kw_only=True):
    TYPE = "fleet.created"
    SUBJECT = ("fleet", "fleet")


class FleetConfigChanged(Event, frozen=True, kw_only=True):
    TYPE = "fleet.config-changed"
    SUBJECT = ("fleet", "fleet")
    revision: int
    before: Mapping[str, Any]
    after: Mapping[str, Any]


class FleetApprovalSet(Event, frozen=True, kw_only=True):
    """Whether deployments to the fleet take a second person from now on."""

    TYPE = "fleet.approval-set"
    SUBJECT = ("fleet", "fleet")
    required: bool
    approved_by: str | None = None


class TokenCreated(Event, frozen=True, kw_only=True):
    TYPE = "token.created"
    SUBJECT = ("token", "token_id")
    token_id: UUID
    expires_at: datetime
    max_uses: int
    approval: str
    tags: Mapping[str, str]


class TokenRevoked(Event, frozen=True, kw_only=True):
    TYPE = "token.revoked"
    SUBJECT = ("token", "token_id")
    token_id: UUID


# Agents: identity


class AgentEnrolled(Event, frozen=True, kw_only=True):
    """With a token, or with a certificate that a manufacturer CA has issued."""

    TYPE = "agent.enrolled"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    token_id: UUID | None = None
    manufacturer_ca_id: UUID | None = None
    serial: str


class AgentPending(Event, frozen=True, kw_only=True):
    """A device asked to join, and waits for an operator."""

    TYPE = "agent.pending"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    token_id: UUID | None = None
    manufacturer_ca_id: UUID | None = None


class AgentApproved(Event, frozen=True, kw_only=True):
    """It may have its certificate: `agent.enrolled` follows when it asks again."""

    TYPE = "agent.approved"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID


class AgentRejected(Event, frozen=True, kw_only=True):
    TYPE = "agent.rejected"
    SUBJECT = ("agent", "agent_id")
    OUTCOME = "denied"
    agent_id: UUID
    reason: str


class AgentReleased(Event, frozen=True, kw_only=True):
    """The device's keys may enrol anew, as another agent; this one stays what it was."""

    TYPE = "agent.released"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    reason: str


class AgentEnrollmentFailed(Event, frozen=True, kw_only=True):
    """`count` attempts that failed for the same `reason` (a problem code) in one minute."""

    TYPE = "agent.enrollment-failed"
    SUBJECT = ("token", "token_id")
    OUTCOME = "denied"
    token_id: UUID | None = None
    reason: str
    count: int = 1
    since: datetime | None = None


class AgentRenewed(Event, frozen=True, kw_only=True):
    TYPE = "agent.renewed"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    serial: str
    supersedes: str | None = None
    reason: str = "renewal"


class AgentRenewalDenied(Event, frozen=True, kw_only=True):
    TYPE = "agent.renewal-denied"
    SUBJECT = ("agent", "agent_id")
    OUTCOME = "denied"
    agent_id: UUID
    request_id: UUID
    reason: str


class AgentTagsChanged(Event, frozen=True, kw_only=True):
    TYPE = "agent.tags-changed"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    before: Mapping[str, str]
    after: Mapping[str, str]


class CommandIssued(Event, frozen=True, kw_only=True):
    TYPE = "command.issued"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    command_id: UUID
    kind: str


class CommandFinished(Event, frozen=True, kw_only=True):
    """How it ended: done, failed or refused by the agent's word, expired without one."""

    TYPE = "command.finished"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    command_id: UUID
    kind: str
    state: str


# Grants


class GrantIssued(Event, frozen=True, kw_only=True):
    TYPE = "grant.issued"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    request_id: UUID
    package_digest: Digest
    kid: str
    expires_at: datetime
    deployment_id: UUID | None = None


class GrantDenied(Event, frozen=True, kw_only=True):
    TYPE = "grant.denied"
    SUBJECT = ("agent", "agent_id")
    OUTCOME = "denied"
    agent_id: UUID
    request_id: UUID
    package_digest: Digest
    reason: str
    deployment_id: UUID | None = None


# Requests


class RequestDenied(Event, frozen=True, kw_only=True):
    """`count` requests to a route (its template, never the URL) without the permission."""

    TYPE = "request.denied"
    SUBJECT = ("route", "route")
    OUTCOME = "denied"
    route: str
    permission: str
    reason: str = "forbidden"
    count: int = 1
