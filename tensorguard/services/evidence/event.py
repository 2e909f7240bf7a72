"""What every ledger event is made of; the events themselves are in events.py."""

from datetime import datetime
from functools import cache
from typing import ClassVar
from uuid import UUID

import msgspec

from tensorguard.ledger.entry import Actor as Actor
from tensorguard.ledger.entry import Outcome as Outcome
from tensorguard.ledger.entry import Subject as Subject
from tensorguard.ledger.entry import format_time

Digest = str | bytes
"""A SHA-256; in the ledger it stands as lower-case hex, whichever way it is given."""

SYSTEM = Actor("system", "platform")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened, told by `by`; the fields of a subclass become its details.

    `SUBJECT` is the kind of thing it happened to, and the field that holds the thing's id.
    `PRIVATE` names the fields that say who a person is: they are encrypted under a key of the
    subject, which can be destroyed, and stand in no other place of the entry.
    """

    TYPE: ClassVar[str]
    SUBJECT: ClassVar[tuple[str, str]]
    OUTCOME: ClassVar[Outcome] = "success"
    PRIVATE: ClassVar[tuple[str, ...]] = ()

    by: Actor
    fleet: str | None = None

    @property
    def type(self) -> str:
        """The dotted name under which the ledger lists it."""
        return self.TYPE

    @property
    def subject(self) -> Subject:
        """What it happened to; `unknown` where no such thing could be identified."""
        kind, field = self.SUBJECT
        value = getattr(self, field)
        return Subject(kind, "unknown" if value is None else str(_plain(value)))

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        return self.OUTCOME

    def details(self) -> dict[str, object]:
        """Return the remaining fields as JSON values; what is None is left out."""
        values = ((name, getattr(self, name)) for name in _detail_fields(type(self)))
        return {name: _plain(value) for name, value in values if value is not None}

    def private(self) -> dict[str, object]:
        """Return the private fields as JSON values; what is None is left out."""
        values = ((name, getattr(self, name)) for name in self.PRIVATE)
        return {name: _plain(value) for name, value in values if value is not None}


@cache
def _detail_fields(event: "type[Event]") -> tuple[str, ...]:
    elsewhere = {"by", "fleet", event.SUBJECT[1], *event.PRIVATE}
    return tuple(name for name in event.__struct_fields__ if name not in elsewhere)


def _plain(value: object) -> object:
    match value:
        case UUID():
            return str(value)
        case bytes():
            return value.hex()
        case datetime():
            return format_time(value)
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
