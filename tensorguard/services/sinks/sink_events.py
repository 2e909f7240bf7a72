"""What the ledger keeps of sinks; listed again in events.py.

What the exporter tells is counted and told now and then: a sink that fails, or an entry that no
sink takes, must not fill the ledger with entries about that, which would have to be sent as well.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from tensorguard.services.evidence.event import Event

GapReason = Literal["too-old", "missing"]


class SinkEvent(Event, frozen=True, kw_only=True):
    """Something about one sink; the subclasses name it."""

    SUBJECT = ("sink", "sink_id")
    sink_id: UUID


class SinkCreated(SinkEvent, frozen=True, kw_only=True):
    """Entries are sent there from `epoch` and `next_index` on."""

    TYPE = "sink.created"
    PRIVATE = ("config",)
    kind: str
    private_fields: bool
    epoch: int
    next_index: int
    config: Mapping[str, Any]


class SinkChanged(SinkEvent, frozen=True, kw_only=True):
    """`changed` names the fields that are others now."""

    TYPE = "sink.changed"
    PRIVATE = ("before", "after")
    changed: list[str]
    private_fields: bool
    before: Mapping[str, Any]
    after: Mapping[str, Any]


class SinkDeleted(SinkEvent, frozen=True, kw_only=True):
    """Nothing is sent there any more; `dead_letters` were never taken."""

    TYPE = "sink.deleted"
    kind: str
    epoch: int
    next_index: int
    dead_letters: int


class SinkPaused(SinkEvent, frozen=True, kw_only=True):
    """Entries wait until it is resumed."""

    TYPE = "sink.paused"
    epoch: int
    next_index: int


class SinkResumed(SinkEvent, frozen=True, kw_only=True):
    TYPE = "sink.resumed"
    epoch: int
    next_index: int


class SinkTested(Event, frozen=True, kw_only=True):
    """One labelled event was sent; without `sink_id` by a configuration that is not stored."""

    TYPE = "sink.tested"
    SUBJECT = ("sink", "sink_id")
    sink_id: UUID | None = None
    kind: str
    accepted: bool
    code: str
    status: int | None = None


class SinkReplayed(SinkEvent, frozen=True, kw_only=True):
    """It is sent again from `epoch` and `next_index` on; it had come to those `before`."""

    TYPE = "sink.replayed"
    epoch: int
    next_index: int
    epoch_before: int
    next_index_before: int


class SinkSecretRotated(SinkEvent, frozen=True, kw_only=True):
    """It has another secret; the one before signs too until `previous_until`."""

    TYPE = "sink.secret-rotated"
    secret_version: int
    previous_until: datetime | None = None


class SinkDeadLettersReplayed(SinkEvent, frozen=True, kw_only=True):
    """Dead letters are sent once more: all, or the one of `epoch` and `leaf_index`."""

    TYPE = "sink.dead-letters-replayed"
    count: int
    epoch: int | None = None
    leaf_index: int | None = None


class SinkDeadLetterDiscarded(SinkEvent, frozen=True, kw_only=True):
    """Somebody has given this entry up for this sink."""

    TYPE = "sink.dead-letter-discarded"
    epoch: int
    leaf_index: int
    code: str


class SinkFailing(SinkEvent, frozen=True, kw_only=True):
    """Entries wait since `since`; `spells` of failing since it was told of last, this one too."""

    TYPE = "sink.failing"
    OUTCOME = "failure"
    code: str
    status: int | None = None
    since: datetime
    failures: int
    spells: int


class SinkRecovered(SinkEvent, frozen=True, kw_only=True):
    """It takes entries again."""

    TYPE = "sink.recovered"
    since: datetime
    failures: int


class SinkStopped(SinkEvent, frozen=True, kw_only=True):
    """The destination refuses everything until a person has changed something."""

    TYPE = "sink.stopped"
    OUTCOME = "failure"
    code: str
    status: int | None = None
    epoch: int
    next_index: int


class SinkDeadLettered(SinkEvent, frozen=True, kw_only=True):
    """So many entries were refused since it was told of last; each is kept, and can be replayed."""

    TYPE = "sink.dead-lettered"
    OUTCOME = "failure"
    count: int


class SinkGap(SinkEvent, frozen=True, kw_only=True):
    """So many entries stand there otherwise than here, between `first_index` and `last_index`.

    `too-old`: the destination would drop them for their age; they have the time of their sending,
    with their own beside it. `missing`: the ledger's database has lost them.
    """

    TYPE = "sink.gap"
    OUTCOME = "failure"
    reason: GapReason
    count: int
    first_index: int
    last_index: int
