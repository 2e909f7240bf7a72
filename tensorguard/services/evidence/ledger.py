"""Writing to the ledger: the change and its event share the caller's transaction."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.entry import Entry, Subject
from tensorguard.ledger.private import PrivateKey, seal_private
from tensorguard.services.evidence.event import Event
from tensorguard.services.evidence.privacy import make_subject_keys
from tensorguard.services.hints import hints_of, tell
from tensorguard.store.ids import new_id

# One round trip however many events: the queue's rows come from those that were just inserted.
_INSERT = text("""
    WITH event AS (
        INSERT INTO ledger_events (id, entry, time, type, actor_kind, actor_id,
                                   subject_kind, subject_id, fleet, outcome)
        SELECT * FROM unnest(
            CAST(:id AS uuid[]), CAST(:entry AS bytea[]), CAST(:time AS timestamptz[]),
            CAST(:type AS text[]), CAST(:actor_kind AS text[]), CAST(:actor_id AS text[]),
            CAST(:subject_kind AS text[]), CAST(:subject_id AS text[]), CAST(:fleet AS text[]),
            CAST(:outcome AS text[]))
        RETURNING id
    )
    INSERT INTO ledger_unsequenced (event_id) SELECT id FROM event
""")


async def record(
    session: AsyncSession, event: Event, *, now: datetime, id: UUID | None = None
) -> UUID:
    """Write one event at the caller's `now` and return its id; it becomes an entry on commit.

    Raises:
        BadEntry: a field outside the details cannot be written.
    """
    ids = await record_many(session, [event], now=now, ids=None if id is None else [id])
    return ids[0]


async def record_many(
    session: AsyncSession,
    events: Sequence[Event],
    *,
    now: datetime,
    ids: Sequence[UUID] | None = None,
) -> list[UUID]:
    """Write events, with the hints they give, and return their ids; `ids` are made if not given.

    Raises:
        BadEntry: a field outside the details cannot be written.
    """
    given = [new_id() for _ in events] if ids is None else list(ids)
    if len(given) != len(events):
        raise ValueError(f"{len(events)} events were given {len(given)} ids")
    if not events:
        return []
    keys = await _private_keys(session, events, now)
    entries = [
        Entry(
            id=id,
            time=now,
            type=event.type,
            actor=event.by,
            subject=event.subject,
            fleet=event.fleet,
            outcome=event.outcome,
            details=event.details(),
            private=_seal(keys, id, event),
        )
        for id, event in zip(given, events, strict=True)
    ]
    await session.execute(
        _INSERT,
        {
            "id": given,
            "entry": [entry.to_bytes() for entry in entries],
            "time": [entry.time for entry in entries],
            "type": [entry.type for entry in entries],
            "actor_kind": [entry.actor.kind for entry in entries],
            "actor_id": [entry.actor.id for entry in entries],
            "subject_kind": [entry.subject.kind for entry in entries],
            "subject_id": [entry.subject.id for entry in entries],
            "fleet": [entry.fleet for entry in entries],
            "outcome": [entry.outcome for entry in entries],
        },
    )
    await tell(session, hints_of(events), now=now)
    return given


async def _private_keys(
    session: AsyncSession, events: Sequence[Event], now: datetime
) -> Mapping[Subject, PrivateKey]:
    subjects = {event.subject: None for event in events if event.PRIVATE and event.private()}
    return await make_subject_keys(session, list(subjects), now=now) if subjects else {}


def _seal(keys: Mapping[Subject, PrivateKey], id: UUID, event: Event) -> dict[str, str] | None:
    # Without a privacy key they are left out: an id says who it was for as long as that is known.
    key = keys.get(event.subject) if event.PRIVATE else None
    return None if key is None else seal_private(key, id, event.private())
