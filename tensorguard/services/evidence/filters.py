"""Which entries somebody wants: by what they are of, by whom, when, and how it ended."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
import sqlalchemy as sa

from tensorguard.store.tables import ledger_events


class EntryFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is given has to hold; with nothing given every entry is wanted.

    `type_prefixes` and `without` are whole types, or the dotted beginnings of some:
    `agent.reported`. Times are those of the hub: `not_before` ≤ time < `before`.
    """

    type_prefixes: Sequence[str] = ()
    without: Sequence[str] = ()
    fleet: str | None = None
    subject_id: str | None = None
    actor_id: str | None = None
    outcomes: Sequence[str] = ()
    not_before: datetime | None = None
    before: datetime | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return what the rows of ledger_events have to meet, all of it."""
        event = ledger_events.c
        wanted: list[sa.ColumnElement[bool]] = []
        if self.type_prefixes:
            wanted.append(_begins(self.type_prefixes))
        if self.without:
            wanted.append(sa.not_(_begins(self.without)))
        if self.fleet is not None:
            wanted.append(event.fleet == self.fleet)
        if self.subject_id is not None:
            wanted.append(event.subject_id == self.subject_id)
        if self.actor_id is not None:
            wanted.append(event.actor_id == self.actor_id)
        if self.outcomes:
            wanted.append(event.outcome.in_(self.outcomes))
        if self.not_before is not None:
            wanted.append(event.time >= self.not_before)
        if self.before is not None:
            wanted.append(event.time < self.before)
        return wanted

    @property
    def is_everything(self) -> bool:
        """Whether every entry is wanted."""
        return not self.conditions()


EVERYTHING: Final = EntryFilter()


def _begins(prefixes: Sequence[str]) -> sa.ColumnElement[bool]:
    kind = ledger_events.c.type
    return sa.or_(
        kind.in_(prefixes),
        *(kind.startswith(f"{prefix}.", autoescape=True) for prefix in prefixes),
    )
