"""Sinks and dead letters as the api shows them, and what may be asked of them."""

from datetime import datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import Field, SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from api.views import Body, Line, View
from tensorguard.services.sinks.sink_changes import MAX_OVERLAP, OVERLAP
from tensorguard.services.sinks.sink_configs import SinkConfig, parse_config
from tensorguard.services.sinks.sinks import Backlog, Sink, list_backlogs
from tensorguard.siem.answer import Answer

_HOUR: Final = timedelta(hours=1)
Secret = Annotated[SecretStr, Field(min_length=1, max_length=500)]
Index = Annotated[int, Field(ge=0, le=2**53 - 1)]
SinkState = Literal["active", "failing", "paused", "stopped"]


class SinkView(View):
    """A sink: it gets the entry `next_index` of `epoch` next; `waiting` entries it has yet to get.

    `failing`: it is tried again by itself, at `retry_at`. `stopped`: its answer needs a person.
    `answer_text` is the beginning of what the destination said last.
    """

    id: UUID
    name: str
    config: SinkConfig
    state: SinkState
    private_fields: bool
    has_secret: bool
    previous_until: datetime | None
    revision: int
    epoch: int
    next_index: int
    waiting: int
    oldest_waiting_at: datetime | None
    sent: int
    last_sent_at: datetime | None
    dead_letters: int
    answer_status: int | None
    answer_text: str | None
    answered_at: datetime | None
    failures: int
    trouble_code: str | None
    trouble_reason: str | None
    trouble_since: datetime | None
    retry_at: datetime | None
    created_at: datetime
    created_by: str
    updated_at: datetime


class SinkCreate(Body):
    """A new sink; `from_beginning`: all entries that there are, else those from now on.

    `private_fields`: they are sent in clear, which cannot be taken back there.
    """

    name: Line
    config: SinkConfig
    secret: Secret | None = None
    private_fields: bool = False
    from_beginning: bool = False


class SinkChange(Body):
    """What is changed of a sink; null leaves it as it is. Its kind stays."""

    name: Line | None = None
    config: SinkConfig | None = None
    private_fields: bool | None = None


class SinkTest(Body):
    """A configuration that is tried out, and not stored."""

    config: SinkConfig
    secret: Secret | None = None


class SinkTestView(View):
    """What the destination made of one labelled event; `answer`: the first 256 bytes of its own."""

    accepted: bool
    code: str
    reason: str
    status: int | None
    answer: str


class SinkReplay(Body):
    """The entry to send next; the epoch is the present one unless given."""

    next_index: Index
    epoch: Annotated[int, Field(ge=1, le=2**53 - 1)] | None = None


class SinkSecret(Body):
    """A sink's new secret. A webhook is signed with the one before too, for so many hours."""

    secret: Secret
    overlap_hours: int = Field(default=OVERLAP // _HOUR, ge=0, le=MAX_OVERLAP // _HOUR)


class SinkDeadLetterView(View):
    """An entry that the destination refused for itself, and how; the entry is in the ledger."""

    id: UUID
    epoch: int
    leaf_index: int
    event_type: str
    code: str
    reason: str
    status: int | None
    answer: str
    attempts: int
    dead_at: datetime
    replay_requested_at: datetime | None


class SinkLettersReplayed(View):
    """How many dead letters will be sent once more."""

    count: int


async def sink_view(session: AsyncSession, sink: Sink) -> SinkView:
    """Return one sink with what waits for it."""
    (view,) = await sink_views(session, [sink])
    return view


async def sink_views(session: AsyncSession, found: list[Sink]) -> list[SinkView]:
    """Return sinks with what waits for them."""
    backlogs = await list_backlogs(session, found)
    return [_view(sink, backlogs[sink.id]) for sink in found]


def test_view(answer: Answer) -> SinkTestView:
    """Return an answer to a test."""
    return SinkTestView(
        accepted=answer.is_accepted,
        code=answer.code,
        reason=answer.reason,
        status=answer.status,
        answer=answer.excerpt,
    )


def _view(sink: Sink, backlog: Backlog) -> SinkView:
    values = {name: getattr(sink, name) for name in _OF_SINK}
    return SinkView(
        **values,
        config=parse_config(sink.config),
        state=_state(sink),
        has_secret=sink.secret_version > 0,
        waiting=backlog.waiting,
        oldest_waiting_at=backlog.oldest_at,
        dead_letters=backlog.dead_letters,
    )


def _state(sink: Sink) -> SinkState:
    match sink.state:
        case "paused":
            return "paused"
        case "stopped":
            return "stopped"
        case _:
            return "active" if sink.trouble_code is None else "failing"


_OF_SINK: Final = tuple(
    name
    for name in SinkView.model_fields
    if name not in ("config", "state", "has_secret", "waiting", "oldest_waiting_at", "dead_letters")
)
