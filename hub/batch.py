"""A batch of uplinks, decoded and sorted by what is to be done with them; pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from hub.uplink import Uplink
from tensorguard.protocol import codec, topics
from tensorguard.protocol.errors import BadMessage, ProtocolError
from tensorguard.protocol.messages import (
    CsrRequest,
    Event,
    EventHeader,
    FrontConnected,
    FrontDenied,
    FrontDisconnected,
    FrontEnroll,
    Heartbeat,
    KeyRequest,
    Message,
    Progress,
    Reply,
    Will,
)
from tensorguard.protocol.topics import FrontTopic, UpKind, UpTopic

M = TypeVar("M", bound=Message)
MAX_DEAD_LETTER_BYTES = 4096
# An outbox holds at most so many events: a number further above the oldest is not an outbox's.
MAX_OUTBOX_EVENTS = 10_000


@dataclass(frozen=True, slots=True)
class From(Generic[M]):
    """A message and who sent it, by its topic, which the front vouches for."""

    fleet: str
    agent_id: UUID
    message: M
    received_at: datetime


@dataclass(frozen=True, slots=True)
class IncomingEvent:
    """An event with a legible header; `event` is None where the body is invalid, for `reason`."""

    fleet: str
    agent_id: UUID
    header: EventHeader
    event: Event | None
    reason: str
    payload: bytes
    received_at: datetime

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.payload).digest()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that can't be used, cut to 4 KiB, with the reason."""

    agent_id: UUID | None
    fleet: str | None
    kind: str
    topic: str
    payload: bytes
    payload_bytes: int
    payload_sha256: bytes
    code: str
    reason: str
    received_at: datetime


@dataclass(slots=True)
class Batch:
    """Uplinks by kind, each in the order of arrival."""

    heartbeats: list[From[Heartbeat]] = field(default_factory=list)
    events: list[IncomingEvent] = field(default_factory=list)
    progress: list[From[Progress]] = field(default_factory=list)
    key_requests: list[From[KeyRequest]] = field(default_factory=list)
    csrs: list[From[CsrRequest]] = field(default_factory=list)
    replies: list[From[Reply]] = field(default_factory=list)
    wills: list[From[Will]] = field(default_factory=list)
    connected: list[tuple[str, FrontConnected]] = field(default_factory=list)
    disconnected: list[tuple[str, FrontDisconnected]] = field(default_factory=list)
    denied: list[tuple[str, FrontDenied]] = field(default_factory=list)
    enrolls: list[FrontEnroll] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)


def sort(uplinks: Sequence[Uplink]) -> Batch:
    """Return the uplinks decoded; what does not decode becomes a dead letter, never an error."""
    batch = Batch()
    by_kind: dict[UpKind, list[Any]] = {
        UpKind.HEARTBEAT: batch.heartbeats,
        UpKind.PROGRESS: batch.progress,
        UpKind.KEY_REQUEST: batch.key_requests,
        UpKind.CSR: batch.csrs,
        UpKind.REPLY: batch.replies,
        UpKind.WILL: batch.wills,
    }
    for uplink in uplinks:
        topic: UpTopic | FrontTopic | None = None
        try:
            topic = topics.parse_up(uplink.topic)
            if isinstance(topic, FrontTopic):
                _sort_front(batch, uplink, topic)
            elif topic.kind is UpKind.EVENT:
                _sort_event(batch, uplink, topic)
            else:
                message = codec.decode_up(topic.kind, uplink.payload)
                one = From(topic.fleet, topic.agent_id, message, uplink.received_at)
                by_kind[topic.kind].append(one)
        except ProtocolError as error:
            speaker = topic if isinstance(topic, UpTopic) else None
            batch.dead_letters.append(dead_letter(uplink, speaker, error))
    return batch


def _sort_event(batch: Batch, uplink: Uplink, topic: UpTopic) -> None:
    header: EventHeader | None
    event: Event | None = None
    reason = ""
    try:
        decoded = codec.decode_up(UpKind.EVENT, uplink.payload)
        assert isinstance(decoded, Event)
        event = header = decoded
    except ProtocolError as error:
        header = codec.find_event_header(uplink.payload)
        if header is None:
            raise
        reason = error.message
    if not 0 <= header.number - header.oldest < MAX_OUTBOX_EVENTS:
        raise BadMessage(f"event number {header.number} with oldest {header.oldest}")
    batch.events.append(
        IncomingEvent(
            topic.fleet, topic.agent_id, header, event, reason, uplink.payload, uplink.received_at
        )
    )


def _sort_front(batch: Batch, uplink: Uplink, topic: FrontTopic) -> None:
    match message := codec.decode_up(topic.kind, uplink.payload):
        case FrontConnected():
            batch.connected.append((topic.front_id, message))
        case FrontDisconnected():
            batch.disconnected.append((topic.front_id, message))
        case FrontDenied():
            batch.denied.append((topic.front_id, message))
        case FrontEnroll():
            batch.enrolls.append(message)


class Poison(ProtocolError):
    """A well-formed message that the database refuses; kept apart so that the stream goes on."""

    code = "poison"


def condemn(uplink: Uplink, refused: int, why: str) -> Batch:
    """Return a message that was `refused` once or more as something that can be stored.

    An event is known by its number and has to be acked: it goes to the ledger as malformed first.
    """
    batch = sort([uplink])
    if refused == 1 and batch.events:
        return Batch(events=[replace(batch.events[0], event=None, reason=_storable(why[:500]))])
    if batch.dead_letters:
        return batch
    topic = topics.parse_up(uplink.topic)
    speaker = topic if isinstance(topic, UpTopic) else None
    return Batch(dead_letters=[dead_letter(uplink, speaker, Poison(why))])


def dead_letter(uplink: Uplink, topic: UpTopic | None, error: ProtocolError) -> DeadLetter:
    """Return what is kept of a message that can't be used."""
    return DeadLetter(
        agent_id=topic.agent_id if topic else None,
        fleet=topic.fleet if topic else None,
        kind=topic.kind if topic else "unknown",
        topic=_storable(uplink.topic[:300]),
        payload=uplink.payload[:MAX_DEAD_LETTER_BYTES],
        payload_bytes=len(uplink.payload),
        payload_sha256=hashlib.sha256(uplink.payload).digest(),
        code=error.code,
        reason=_storable(error.message[:500]),
        received_at=uplink.received_at,
    )


def _storable(text: str) -> str:
    # PostgreSQL's text holds neither NUL nor half a surrogate pair.
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
