"""Events that agents report, and what is wrong with what they send."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from tensorguard.ledger.entry import DETAILS_DEPTH, format_time, is_exact, lossless, raw
from tensorguard.services.evidence.event import Digest, Event

MAX_REPORTED_BYTES = 60 * 1024  # leaves room for what stands beside it in a 64 KiB entry


class AgentReported(Event, frozen=True, kw_only=True):
    """An event that an agent reports; `reported` is a name of the closed list.

    `data` is the message's `details` as the device sent them: what canonical JSON cannot hold
    exactly is kept as `raw`.
    """

    TYPE = "agent.reported"
    SUBJECT = ("agent", "agent_id")
    agent_id: UUID
    reported: str
    log_id: UUID
    number: int
    at: datetime
    data: Mapping[str, Any]

    @property
    def type(self) -> str:
        return f"agent.reported.{self.reported}"

    def details(self) -> dict[str, object]:
        about: dict[str, object] = {
            "log_id": str(self.log_id),
            "number": self.number,
            "at": format_time(self.at),
        }
        encoded = lossless(self.data)
        if len(encoded) <= MAX_REPORTED_BYTES and is_exact(self.data, depth=DETAILS_DEPTH + 1):
            return about | {"reported": dict(self.data)}
        return about | raw(encoded)


class EventsGap(Event, frozen=True, kw_only=True):
    """The agent no longer holds some numbers from `first` to `last`, and the hub never had them.

    `missing` says how many: the others between the two came before.
    """

    TYPE = "events.gap"
    SUBJECT = ("agent", "agent_id")
    OUTCOME = "failure"
    agent_id: UUID
    log_id: UUID
    first: int
    last: int
    missing: int


class EventMalformed(Event, frozen=True, kw_only=True):
    """A message with a legible number whose body breaks the protocol for the given `reason`."""

    TYPE = "event.malformed"
    SUBJECT = ("agent", "agent_id")
    OUTCOME = "failure"
    agent_id: UUID
    log_id: UUID
    number: int
    reason: str
    payload: bytes

    def details(self) -> dict[str, object]:
        about = {"log_id": str(self.log_id), "number": self.number, "reason": self.reason}
        return about | raw(self.payload)


class EventConflict(Event, frozen=True, kw_only=True):
    """The same (agent, log, number) came again with other bytes."""

    TYPE = "event.conflict"
    SUBJECT = ("agent", "agent_id")
    OUTCOME = "failure"
    agent_id: UUID
    log_id: UUID
    number: int
    stored_sha256: Digest
    received_sha256: Digest


class AgentFlooding(Event, frozen=True, kw_only=True):
    """`count` events beyond the limits; `digest` is the SHA-256 over their payloads."""

    TYPE = "agent.flooding"
    SUBJECT = ("agent", "agent_id")
    OUTCOME = "denied"
    agent_id: UUID
    count: int
    digest: Digest
    since: datetime
    until: datetime
    log_id: UUID | None = None
    first: int | None = None
    last: int | None = None


class AgentDenied(Event, frozen=True, kw_only=True):
    """`count` operations (connect, publish, subscribe, …) that a broker front refused."""

    TYPE = "agent.denied"
    SUBJECT = ("agent", "agent_id")
    OUTCOME = "denied"
    agent_id: UUID | None
    operation: str
    reason: str
    count: int
    front: str | None = None
    since: datetime | None = None


class MessagePoisoned(Event, frozen=True, kw_only=True):
    """`count` messages of one kind went to the dead letters for the same reason."""

    TYPE = "message.poisoned"
    SUBJECT = ("agent", "agent_id")
    OUTCOME = "failure"
    agent_id: UUID | None
    kind: str
    reason: str
    count: int = 1
    dead_letter_id: int | None = None
