"""Hints: "this changed, read it again" for whoever watches; written where the change is written.

A hint holds ids only, so that what somebody may see is decided when they read it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence.event import Event
from tensorguard.services.evidence.events import (
    AgentDenied,
    AgentEnrollmentFailed,
    AgentFlooding,
    AgentRenewalDenied,
    AgentReported,
    EventConflict,
    EventMalformed,
    EventsGap,
    GrantDenied,
    GrantIssued,
    MessagePoisoned,
    PackageRefused,
)

KEPT_FOR: Final = timedelta(minutes=5)
MAX_KEPT: Final = 50_000
MAX_NAMED: Final = 200
"""So many of one kind are named one by one; of more than these a hint says "any of them"."""


class HintKind(StrEnum):
    """What a hint is about."""

    AGENT = "agent"
    DEPLOYMENT = "deployment"
    FLEET = "fleet"
    PACKAGE = "package"
    RELEASE = "release"
    APPROVAL = "approval"
    TRUST = "trust"
    LEDGER = "ledger"
    OVERVIEW = "overview"
    HEARTBEATS = "heartbeats"
    SINK = "sink"


@dataclass(frozen=True, slots=True)
class Hint:
    """Something of `kind` changed: the one with this id, or with None any number of them.

    `fleet` is the fleet that it belongs to, None where that is none or several. `count` is how many
    heartbeats were accepted since the hint before, and None for every other kind.
    """

    kind: HintKind
    id: str | None = None
    fleet: str | None = None
    count: int | None = None


OVERVIEW: Final = Hint(HintKind.OVERVIEW)
_KINDS: Final[Mapping[str, HintKind]] = {
    "agent": HintKind.AGENT,
    "deployment": HintKind.DEPLOYMENT,
    "fleet": HintKind.FLEET,
    "token": HintKind.FLEET,
    "manufacturer-ca": HintKind.FLEET,
    "package": HintKind.PACKAGE,
    "publisher": HintKind.PACKAGE,
    "release": HintKind.RELEASE,
    "approval": HintKind.APPROVAL,
    "trust-bundle": HintKind.TRUST,
    "ca": HintKind.TRUST,
    # With the id of the KEK, which no other hint of this kind has.
    "kek": HintKind.TRUST,
    "sink": HintKind.SINK,
}
# How often these happen is up to devices and strangers, and no list of things changes with them.
_NOT_TOLD: Final = (
    AgentDenied,
    AgentEnrollmentFailed,
    AgentFlooding,
    AgentRenewalDenied,
    AgentReported,
    EventConflict,
    EventMalformed,
    EventsGap,
    GrantDenied,
    GrantIssued,
    MessagePoisoned,
    PackageRefused,
)


def hints_of(events: Iterable[Event]) -> list[Hint]:
    """Return the hints that ledger events give, without repetition."""
    found: dict[Hint, None] = {}
    for event in events:
        subject = event.subject
        kind = _KINDS.get(subject.kind)
        if kind is None or isinstance(event, _NOT_TOLD):
            continue
        named = {
            "token": event.fleet,
            "manufacturer-ca": event.fleet,
            "publisher": None,
            "trust-bundle": None,
            "ca": None,
        }.get(subject.kind, subject.id)
        found[Hint(kind, named, event.fleet)] = None
    return [*found, OVERVIEW] if found else []


def gathered(hints: Collection[Hint]) -> list[Hint]:
    """Return the hints, those of a kind and fleet that are too many as one without an id."""
    groups: dict[tuple[HintKind, str | None], list[Hint]] = {}
    for hint in dict.fromkeys(hints):
        groups.setdefault((hint.kind, hint.fleet), []).append(hint)
    return [
        hint
        for (kind, fleet), group in groups.items()
        for hint in (group if len(group) <= MAX_NAMED else [Hint(kind, None, fleet)])
    ]


async def tell(session: AsyncSession, hints: Sequence[Hint], *, now: datetime) -> None:
    """Write hints in one round trip; they are told once the caller's transaction has committed."""
    if not hints:
        return
    few = gathered(hints)
    await session.execute(
        _INSERT,
        {
            "kinds": [hint.kind for hint in few],
            "ids": [hint.id for hint in few],
            "fleets": [hint.fleet for hint in few],
            "counts": [hint.count for hint in few],
            "now": now,
        },
    )


async def forget_hints(session: AsyncSession, *, now: datetime) -> int:
    """Remove hints that are old, or too many; return how many.

    What stays is without a gap from its first transaction on, and is never nothing.
    """
    values = {"before": now - KEPT_FOR, "most": MAX_KEPT}
    result = await session.execute(_FORGET, values)
    return int(result.rowcount)  # type: ignore[attr-defined] # a DELETE's result counts


_INSERT = sa.text("""
    INSERT INTO stream_events (kind, subject_id, fleet, count, at)
    SELECT kind, id, fleet, count, :now
    FROM unnest(CAST(:kinds AS text[]), CAST(:ids AS text[]), CAST(:fleets AS text[]),
                CAST(:counts AS bigint[])) AS hint (kind, id, fleet, count)
""")
_FORGET = sa.text("""
    DELETE FROM stream_events WHERE xact < (
        SELECT max(xact) FROM (
            (SELECT xact FROM stream_events WHERE at < :before ORDER BY xact DESC LIMIT 1)
            UNION ALL
            (SELECT xact FROM stream_events ORDER BY xact DESC, id DESC OFFSET :most LIMIT 1)
        ) AS bound)
""")
