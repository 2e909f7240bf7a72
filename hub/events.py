"""Events of agents into the ledger: each exactly once, every gap told, every ack after commit.

The key is (agent, log_id, number) with the payload's SHA-256: the same digest again is a duplicate,
another digest is a conflict. `through` of a log: the number up to which nothing is missing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from hub import arrays
from hub.batch import IncomingEvent
from hub.downlink import Downlinks
from hub.event_budget import EventBudget
from tensorguard.protocol.messages import Ack
from tensorguard.protocol.topics import DownKind
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor, Event
from tensorguard.services.evidence.events import (
    AgentReported,
    EventConflict,
    EventMalformed,
    EventsGap,
)
from tensorguard.store.ids import new_id
from tensorguard.store.tables import agent_event_budgets, agent_logs

LogKey = tuple[UUID, UUID]
KEYS_KEPT_FOR: Final = timedelta(days=30)
"""For so long an event that comes again with other content is told as a conflict."""
LOGS_KEPT: Final = 100
"""Outboxes of an agent that are known, the newest: it begins another only where it lost its own."""


@dataclass(slots=True)
class _Log:
    """One outbox of one agent while a batch is stored."""

    fleet: str
    agent_id: UUID
    log_id: UUID
    through: int
    stored: dict[int, bytes] = field(default_factory=dict)
    oldest: int = 1

    def advance(self) -> None:
        while self.through + 1 in self.stored:
            self.through += 1


@dataclass(slots=True)
class _New:
    """Rows that the batch adds: ledger events, and the keys under which they are known."""

    events: list[tuple[UUID, Event]] = field(default_factory=list)
    keys: list[tuple[UUID, UUID, int, bytes, UUID | None]] = field(default_factory=list)


async def store_events(
    session: AsyncSession, incoming: Sequence[IncomingEvent], downlinks: Downlinks, now: datetime
) -> int:
    """Write what is new to the ledger and queue one ack for each log; return how many were new."""
    if not incoming:
        return 0
    ordered = sorted(incoming, key=lambda one: (one.agent_id, one.header.log_id, one.header.number))
    logs, began = await _lock_logs(session, ordered, now)
    budgets = await _lock_budgets(session, {one.agent_id for one in ordered}, now)
    new = _New()
    for one in ordered:
        log = logs[one.agent_id, one.header.log_id]
        budgets[one.agent_id] = _take(one, log, budgets[one.agent_id], new, now)
    for log in logs.values():
        _close_gap(log, new)
        log.advance()
    # Below a watermark what has no row counts as known, and a flood shall not fill a table.
    keys = [key for key in new.keys if key[4] is not None or key[2] > logs[key[0], key[1]].through]
    taken, new.keys = len(new.keys), keys
    await _write(session, logs.values(), budgets, new, now)
    if began:
        await session.execute(_FORGET_LOGS, {"agents": arrays.of_plain(began), "kept": LOGS_KEPT})
    for log in logs.values():
        ack = Ack(log_id=log.log_id, through=log.through)
        downlinks.to_agent(log.fleet, log.agent_id, DownKind.ACK, ack)
    return taken


def _take(
    one: IncomingEvent, log: _Log, budget: EventBudget, new: _New, now: datetime
) -> EventBudget:
    """Decide about one event; return the agent's budget after it."""
    number, sha256 = one.header.number, one.sha256
    log.oldest = max(log.oldest, one.header.oldest)
    known = log.stored.get(number)
    if known == sha256 or (known is None and number <= log.through):
        # At or below the watermark without a row: told as a gap already. Too late, but no crime.
        return budget
    if not budget.allows:
        if known is None:
            log.stored[number] = sha256
            new.keys.append((one.agent_id, one.header.log_id, number, sha256, None))
        return budget.exceed(sha256, now)
    event_id = new_id()
    new.events.append((event_id, _event(one, known)))
    if known is None:
        log.stored[number] = sha256
        new.keys.append((one.agent_id, one.header.log_id, number, sha256, event_id))
    return budget.spend()


def _event(one: IncomingEvent, known: bytes | None) -> Event:
    by, log_id, number = _agent(one.agent_id), one.header.log_id, one.header.number
    if known is not None:
        return EventConflict(
            by=by,
            fleet=one.fleet,
            agent_id=one.agent_id,
            log_id=log_id,
            number=number,
            stored_sha256=known.hex(),
            received_sha256=one.sha256.hex(),
        )
    if one.event is None:
        return EventMalformed(
            by=by,
            fleet=one.fleet,
            agent_id=one.agent_id,
            log_id=log_id,
            number=number,
            reason=one.reason,
            payload=one.payload,
        )
    return AgentReported(
        by=by,
        fleet=one.fleet,
        agent_id=one.agent_id,
        reported=one.event.type,
        log_id=log_id,
        number=number,
        at=one.event.at,
        data=one.event.details,
    )


def _close_gap(log: _Log, new: _New) -> None:
    """Numbers below `oldest` that never came are gone for good: say so once, and go past them."""
    log.advance()
    if log.oldest <= log.through + 1:
        return
    came = {number for number in log.stored if log.through < number < log.oldest}
    first, last = log.through + 1, log.oldest - 1
    while last in came:
        last -= 1
    gap = EventsGap(
        by=_agent(log.agent_id),
        fleet=log.fleet,
        agent_id=log.agent_id,
        log_id=log.log_id,
        first=first,
        last=last,
        missing=log.oldest - first - len(came),
    )
    new.events.append((new_id(), gap))
    log.through = log.oldest - 1


def _agent(agent_id: UUID) -> Actor:
    return Actor("agent", str(agent_id))


async def _lock_logs(
    session: AsyncSession, ordered: Sequence[IncomingEvent], now: datetime
) -> tuple[dict[LogKey, _Log], set[UUID]]:
    """Return the batch's logs, and whose of them are new."""
    fleets = {(one.agent_id, one.header.log_id): one.fleet for one in ordered}
    opened = [
        {"agent_id": agent_id, "log_id": log_id, "through": 0, "opened_at": now}
        for agent_id, log_id in sorted(fleets)
    ]
    insertion = insert(agent_logs).values(opened).on_conflict_do_nothing()
    began = set((await session.scalars(insertion.returning(agent_logs.c.agent_id))).all())
    keys = sa.tuple_(agent_logs.c.agent_id, agent_logs.c.log_id)
    rows = await session.execute(
        sa.select(agent_logs.c.agent_id, agent_logs.c.log_id, agent_logs.c.through)
        .where(keys.in_(list(fleets)))
        .order_by(agent_logs.c.agent_id, agent_logs.c.log_id)
        .with_for_update()
    )
    logs = {
        (row.agent_id, row.log_id): _Log(
            fleets[row.agent_id, row.log_id], row.agent_id, row.log_id, row.through
        )
        for row in rows
    }
    for row in await _stored(session, ordered, logs.values()):
        logs[row.agent_id, row.log_id].stored[row.number] = bytes(row.payload_sha256)
    return logs, began


_FORGET_LOGS = sa.text("""
    DELETE FROM agent_logs l USING (
        SELECT agent_id, log_id, row_number() OVER (
            PARTITION BY agent_id ORDER BY opened_at DESC, log_id
        ) AS place
        FROM agent_logs WHERE agent_id = ANY(CAST(:agents AS uuid[]))
    ) AS ranked
    WHERE l.agent_id = ranked.agent_id AND l.log_id = ranked.log_id AND ranked.place > :kept
""")
_STORED = sa.text("""
    SELECT e.agent_id, e.log_id, e.number, e.payload_sha256
    FROM unnest(CAST(:agents AS uuid[]), CAST(:logs AS uuid[]), CAST(:throughs AS bigint[]))
         AS l (agent_id, log_id, through)
    JOIN agent_events e ON e.agent_id = l.agent_id AND e.log_id = l.log_id AND e.number > l.through
    UNION
    SELECT e.agent_id, e.log_id, e.number, e.payload_sha256
    FROM unnest(CAST(:event_agents AS uuid[]), CAST(:event_logs AS uuid[]),
                CAST(:numbers AS bigint[])) AS n (agent_id, log_id, number)
    JOIN agent_events e ON e.agent_id = n.agent_id AND e.log_id = n.log_id AND e.number = n.number
""")


async def _stored(
    session: AsyncSession, ordered: Sequence[IncomingEvent], logs: Iterable[_Log]
) -> Sequence[sa.Row[Any]]:
    """Return the events that are stored already: those of this batch, and all above a watermark."""
    known = list(logs)
    result = await session.execute(
        _STORED,
        {
            "agents": arrays.of_plain(log.agent_id for log in known),
            "logs": arrays.of_plain(log.log_id for log in known),
            "throughs": arrays.of_plain(log.through for log in known),
            "event_agents": arrays.of_plain(one.agent_id for one in ordered),
            "event_logs": arrays.of_plain(one.header.log_id for one in ordered),
            "numbers": arrays.of_plain(one.header.number for one in ordered),
        },
    )
    return result.all()


async def _lock_budgets(
    session: AsyncSession, agents: set[UUID], now: datetime
) -> dict[UUID, EventBudget]:
    table = agent_event_budgets
    rows = await session.execute(
        sa.select(table)
        .where(table.c.agent_id.in_(agents))
        .order_by(table.c.agent_id)
        .with_for_update()
    )
    budgets = {
        row.agent_id: EventBudget(
            row.tokens,
            row.refilled_at,
            row.day,
            row.day_count,
            row.excess,
            row.excess_since,
            row.excess_sha256,
        ).refill(now)
        for row in rows
    }
    return defaultdict(lambda: EventBudget.full(now), budgets)


async def _write(
    session: AsyncSession,
    logs: Iterable[_Log],
    budgets: dict[UUID, EventBudget],
    new: _New,
    now: datetime,
) -> None:
    await ledger.record_many(
        session, [event for _, event in new.events], now=now, ids=[id for id, _ in new.events]
    )
    if new.keys:
        await session.execute(_INSERT_KEYS, _columns(new.keys, now))
    touched = list(logs)
    await session.execute(
        _ADVANCE,
        {
            "agents": arrays.of_plain(log.agent_id for log in touched),
            "logs": arrays.of_plain(log.log_id for log in touched),
            "throughs": arrays.of_plain(log.through for log in touched),
        },
    )
    await save_budgets(session, budgets)


async def save_budgets(session: AsyncSession, budgets: dict[UUID, EventBudget]) -> None:
    """Write budgets back, in the order in which every hub locks them."""
    table = agent_event_budgets
    rows = [
        {
            "agent_id": agent_id,
            "tokens": budget.tokens,
            "refilled_at": budget.refilled_at,
            "day": budget.day,
            "day_count": budget.day_count,
            "excess": budget.excess,
            "excess_since": budget.excess_since,
            "excess_sha256": budget.excess_sha256,
        }
        for agent_id, budget in sorted(budgets.items())
    ]
    statement = insert(table).values(rows)
    changed = {name: statement.excluded[name] for name in rows[0] if name != "agent_id"}
    await session.execute(
        statement.on_conflict_do_update(index_elements=["agent_id"], set_=changed)
    )


async def forget_keys(session: AsyncSession, now: datetime, *, most: int = 5_000) -> None:
    """Delete the oldest keys that nothing needs; above their log's watermark all are needed."""
    await session.execute(_FORGET_KEYS, {"before": now - KEYS_KEPT_FOR, "most": most})


# Asked row by row, not joined: so it reads along the index and ends at the limit.
_FORGET_KEYS = sa.text("""
    DELETE FROM agent_events WHERE (agent_id, log_id, number) IN (
        SELECT agent_id, log_id, number FROM agent_events e
        WHERE received_at < :before AND number <= COALESCE((
            SELECT through FROM agent_logs l WHERE l.agent_id = e.agent_id AND l.log_id = e.log_id
        ), number)
        ORDER BY received_at LIMIT :most
    )
""")
_INSERT_KEYS = sa.text("""
    INSERT INTO agent_events (agent_id, log_id, number, payload_sha256, event_id, received_at)
    SELECT *, CAST(:now AS timestamptz) FROM unnest(
        CAST(:agents AS uuid[]), CAST(:logs AS uuid[]), CAST(:numbers AS bigint[]),
        CAST(:digests AS bytea[]), CAST(:events AS uuid[]))
""")
_ADVANCE = sa.text("""
    UPDATE agent_logs SET through = l.through
    FROM unnest(CAST(:agents AS uuid[]), CAST(:logs AS uuid[]), CAST(:throughs AS bigint[]))
         AS l (agent_id, log_id, through)
    WHERE agent_logs.agent_id = l.agent_id AND agent_logs.log_id = l.log_id
      AND agent_logs.through < l.through
""")


def _columns(
    keys: Sequence[tuple[UUID, UUID, int, bytes, UUID | None]], now: datetime
) -> dict[str, object]:
    agents, logs, numbers, digests, events = zip(*keys, strict=True)
    return {
        "agents": arrays.of_plain(agents),
        "logs": arrays.of_plain(logs),
        "numbers": arrays.of_plain(numbers),
        "digests": arrays.of_bytes(digests),
        "events": arrays.of_plain(events),
        "now": now,
    }
