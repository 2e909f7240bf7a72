"""Entries of a report, one by one: a bounded number of each section, the newest first."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.selectable import LateralFromClause

from tensorguard.services.compliance.period import Scope, event, place
from tensorguard.services.compliance.sections import (
    ROUTINE,
    SECTIONS,
    SectionName,
    TypeCount,
    section_of,
)
from tensorguard.store.tables import ledger_entries, ledger_events

MOST_LISTED: Final = 200
"""Of one section."""
MOST_ACTORS: Final = 50
MOST_DETAILS_BYTES: Final = 2_000
_RECEIPTS_AT_ONCE: Final = 100
_RECEIPT_TYPES: Final = (
    "agent.revocation-confirmed",
    "agent.revocation-partial",
    "fleet.revocation-confirmed",
    "fleet.revocation-partial",
)

Place = tuple[int, int]
"""An epoch and a leaf index."""


class ListedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry in its place of the ledger; `details` is None where they are too long to list."""

    epoch: int
    leaf_index: int
    leaf_hash: bytes
    time: datetime
    type: str
    actor_kind: str
    actor_id: str
    subject_kind: str
    subject_id: str
    fleet: str | None
    outcome: str
    details: Mapping[str, Any] | None


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """What a section counts and lists: `left_out` of its `entries` are not listed."""

    name: SectionName
    types: Sequence[TypeCount]
    entries: int
    left_out: int
    listed: Sequence[ListedEntry]


class RevocationReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """When the fronts had shut an agent, or a fleet, out: the slowest after `took_ms`.

    `leaf_index` is that of the entry that says so; a receipt may come after the period's end.
    """

    epoch: int
    leaf_index: int
    is_complete: bool
    fronts_ms: Mapping[str, int]
    took_ms: int | None
    disconnected: int


class ActorCount(msgspec.Struct, frozen=True, kw_only=True):
    """Who has changed something, and how often."""

    kind: str
    id: str
    entries: int


_COLUMNS: Final = (
    place.epoch,
    place.leaf_index,
    place.leaf_hash,
    event.time,
    event.type,
    event.actor_kind,
    event.actor_id,
    event.subject_kind,
    event.subject_id,
    event.fleet,
    event.outcome,
    event.entry,
)


async def list_sections(
    session: AsyncSession, scope: Scope, counts: Iterable[TypeCount]
) -> list[Section]:
    """Return every section that has entries; of each at most MOST_LISTED one by one."""
    by_section: dict[SectionName, list[TypeCount]] = {}
    for one in counts:
        by_section.setdefault(section_of(one.type), []).append(one)
    found = []
    for name in SECTIONS:
        types = by_section.get(name, [])
        entries = sum(one.entries for one in types)
        # What is not listed at all is there in numbers: what devices report as they work.
        listed = [] if name == "other" else await _list(session, scope, types)
        if entries:
            found.append(
                Section(
                    name=name,
                    types=types,
                    entries=entries,
                    left_out=entries - len(listed),
                    listed=listed,
                )
            )
    return found


async def _list(
    session: AsyncSession, scope: Scope, types: Iterable[TypeCount]
) -> list[ListedEntry]:
    names = {one.type for one in types if one.entries}
    listed: list[ListedEntry] = []
    for some in (names - ROUTINE, names & ROUTINE):
        room = MOST_LISTED - len(listed)
        if some and room > 0:
            listed += await list_newest(session, scope, some, room)
    return sorted(listed, key=lambda one: (one.time, one.epoch, one.leaf_index), reverse=True)


async def list_newest(
    session: AsyncSession, scope: Scope, types: Iterable[str], most: int
) -> list[ListedEntry]:
    """Return entries of these types, the newest first."""
    placed = _placed(scope)
    query = (
        sa.select(*placed.c, *_COLUMNS[3:])
        .select_from(ledger_events)
        .join(placed, sa.true())
        .where(*scope.conditions(), event.type.in_(sorted(types)))
        .order_by(event.time.desc(), event.id.desc())
        .limit(most)
    )
    return [_listed(row) for row in await session.execute(query)]


def _placed(scope: Scope) -> LateralFromClause:
    """The place of each entry, by its key.

    Joined as a whole, all entries of the period would be read and sorted for a few.
    """
    return (
        sa.select(place.epoch, place.leaf_index, place.leaf_hash)
        .where(place.event_id == event.id, scope.is_proven())
        .correlate(ledger_events)
        .offset(0)
        .lateral("placed")
    )


def _listed(row: Any) -> ListedEntry:
    values = dict(row._mapping)
    return ListedEntry(**values | {"details": _details(values.pop("entry"))})


def _details(entry: bytes) -> Mapping[str, Any] | None:
    """What stands in the bytes; None where that is too long, or no longer an entry."""
    try:
        details = json.loads(entry)["details"]
    except (ValueError, KeyError, TypeError):
        return None
    is_short = len(json.dumps(details)) <= MOST_DETAILS_BYTES
    return details if isinstance(details, dict) and is_short else None


async def find_receipts(
    session: AsyncSession, scope: Scope, revoked: Sequence[ListedEntry]
) -> dict[Place, RevocationReceipt]:
    """Return the newest receipt of each `agent.revoked` and `fleet.revoked`, by its place.

    An agent that was revoked with its fleet has the fleet's receipt.
    """
    orders = {_order_of(one): one for one in revoked if _order_of(one) is not None}
    subjects = sorted({subject for subject, _ in filter(None, orders)})
    newest: dict[tuple[str, str], RevocationReceipt] = {}
    for start in range(0, len(subjects), _RECEIPTS_AT_ONCE):
        query = (
            sa.select(*_COLUMNS)
            .select_from(ledger_events)
            .join(ledger_entries, place.event_id == event.id)
            .where(
                event.type.in_(_RECEIPT_TYPES),
                event.subject_id.in_(subjects[start : start + _RECEIPTS_AT_ONCE]),
                event.time >= scope.since,
                scope.is_proven(),
            )
            .order_by(event.time, event.id)
        )
        for row in await session.execute(query):
            listed = _listed(row)
            key = _receipt_key(listed)
            known = newest.get(key) if key else None
            # Complete is complete: an older word that it is partial does not undo it.
            if key and not (known and known.is_complete):
                newest[key] = _receipt(listed)
    return {
        (one.epoch, one.leaf_index): receipt
        for one in revoked
        if (order := _order_of(one)) is not None and (receipt := newest.get(order)) is not None
    }


def _order_of(one: ListedEntry) -> tuple[str, str] | None:
    """What a receipt names: whom it is about, and which order."""
    details = one.details or {}
    if one.type == "fleet.revoked":
        return one.subject_id, str(details.get("revocation_id"))
    if one.type != "agent.revoked":
        return None
    if (with_fleet := details.get("fleet_revocation_id")) is not None:
        return one.fleet or "", str(with_fleet)
    return one.subject_id, str(details.get("seq"))


def _receipt_key(one: ListedEntry) -> tuple[str, str] | None:
    name = "revocation_id" if one.type.startswith("fleet.") else "seq"
    found = (one.details or {}).get(name)
    return None if found is None else (one.subject_id, str(found))


def took_ms(receipt: ListedEntry) -> int | None:
    """Return how long the slowest front took; None where the receipt does not say."""
    return max(_fronts_ms(receipt).values(), default=None)


def _fronts_ms(receipt: ListedEntry) -> dict[str, int]:
    fronts = (receipt.details or {}).get("fronts_ms")
    if not isinstance(fronts, dict):
        return {}
    return {name: took for name, took in fronts.items() if isinstance(took, int)}


def _receipt(one: ListedEntry) -> RevocationReceipt:
    disconnected = (one.details or {}).get("disconnected")
    return RevocationReceipt(
        epoch=one.epoch,
        leaf_index=one.leaf_index,
        is_complete=one.type.endswith("-confirmed"),
        fronts_ms=_fronts_ms(one),
        took_ms=took_ms(one),
        disconnected=disconnected if isinstance(disconnected, int) else 0,
    )


async def count_actors(
    session: AsyncSession, scope: Scope, counts: Iterable[TypeCount]
) -> list[ActorCount]:
    """Return by whom the changes were, the most frequent first."""
    types = sorted({one.type for one in counts if section_of(one.type) == "changes"})
    if not types:
        return []
    many = sa.func.count().label("entries")
    query = (
        sa.select(event.actor_kind.label("kind"), event.actor_id.label("id"), many)
        .select_from(ledger_events)
        .join(_placed(scope), sa.true())
        .where(*scope.conditions(), event.type.in_(types))
        .group_by(event.actor_kind, event.actor_id)
        .order_by(many.desc(), event.actor_kind, event.actor_id)
        .limit(MOST_ACTORS)
    )
    return [ActorCount(**row) for row in (await session.execute(query)).mappings()]
