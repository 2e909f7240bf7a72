"""Events about agents' certificates after enrollment: superseded, moved, recovered."""

from uuid import UUID

from tensorguard.services.evidence.event import Event


class CertificateSuperseded(Event, frozen=True, kw_only=True):
    """`serials` are denied from now on, because the agent has connected with `by_serial`."""

    TYPE = "agent.certificate-superseded"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    serials: list[str]
    by_serial: str


class AgentMoveOrdered(Event, frozen=True, kw_only=True):
    TYPE = "agent.move-ordered"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    to_fleet: str


class AgentMoveCancelled(Event, frozen=True, kw_only=True):
    TYPE = "agent.move-cancelled"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    to_fleet: str


class AgentMoved(Event, frozen=True, kw_only=True):
    """The agent has connected with a certificate of `fleet`; it was in `from_fleet` before."""

    TYPE = "agent.moved"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    from_fleet: str


class RecoveryRequested(Event, frozen=True, kw_only=True):
    """The holder of an expired certificate's key asks for another certificate."""

    TYPE = "recovery.requested"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    recovery_id: UUID
    serial: str


class RecoveryApproved(Event, frozen=True, kw_only=True):
    TYPE = "recovery.approved"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    recovery_id: UUID


class RecoveryRejected(Event, frozen=True, kw_only=True):
    TYPE = "recovery.rejected"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    recovery_id: UUID
    reason: str


class AgentRecovered(Event, frozen=True, kw_only=True):
    """An approved recovery was collected: `serial` is the new certificate's."""

    TYPE = "agent.recovered"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    recovery_id: UUID
    serial: str
