"""What the ledger keeps of the kill switch: what was ordered, and what the fronts did about it.

Listed again in events.py.
"""

from collections.abc import Mapping
from uuid import UUID

from tensorguard.services.evidence.event import Event


class AgentRevoked(Event, frozen=True, kw_only=True):
    """`token_id` is the token that the agent came with: it asks for approval from now on.

    `fleet_revocation_id` where the whole fleet was revoked: the fronts' receipt is the fleet's.
    """

    TYPE = "agent.revoked"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    reason: str
    seq: int | None = None
    token_id: UUID | None = None
    approved_by: str | None = None
    fleet_revocation_id: UUID | None = None


class AgentRevocationConfirmed(Event, frozen=True, kw_only=True):
    """The receipt: milliseconds from the request until each front had denied the agent."""

    TYPE = "agent.revocation-confirmed"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    seq: int
    fronts_ms: Mapping[str, int]
    disconnected: int


class AgentRevocationPartial(Event, frozen=True, kw_only=True):
    """These fronts have not confirmed in time; those `not_answering` have no lease either."""

    TYPE = "agent.revocation-partial"
    SUBJECT = ("agent", "agent_id")
    OUTCOME = "failure"
    agent_id: UUID
    seq: int
    fronts_ms: Mapping[str, int]
    disconnected: int
    waiting_for: list[str]
    not_answering: list[str]


class FleetRevoked(Event, frozen=True, kw_only=True):
    """Every agent of a fleet; each has an entry of its own. `tokens` were revoked as well."""

    TYPE = "fleet.revoked"
    SUBJECT = ("fleet", "fleet")
    revocation_id: UUID
    reason: str
    approved_by: str | None
    agents: int
    rejected: int
    tokens: int
    manufacturer_cas: int
    first_seq: int | None
    last_seq: int | None


class FleetRevocationConfirmed(Event, frozen=True, kw_only=True):
    """The receipt: milliseconds until each front had denied the last of the fleet's agents."""

    TYPE = "fleet.revocation-confirmed"
    SUBJECT = ("fleet", "fleet")
    revocation_id: UUID
    agents: int
    fronts_ms: Mapping[str, int]
    disconnected: int


class FleetRevocationPartial(Event, frozen=True, kw_only=True):
    """These fronts have not confirmed in time; those `not_answering` have no lease either."""

    TYPE = "fleet.revocation-partial"
    SUBJECT = ("fleet", "fleet")
    OUTCOME = "failure"
    revocation_id: UUID
    agents: int
    fronts_ms: Mapping[str, int]
    disconnected: int
    waiting_for: list[str]
    not_answering: list[str]
