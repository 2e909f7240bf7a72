"""What the exporter writes down: how far a sink has come, and what is wrong with it.

Every write holds only for the place that was read: a replay, or another exporter that has come
further, makes it fail, and the exporter begins again from the row. What was accepted is written
down even if a person has paused or changed the sink meanwhile; what failed is not.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor, Event
from tensorguard.services.evidence.events import (
    SinkDeadLettered,
    SinkFailing,
    SinkGap,
    SinkRecovered,
    SinkStopped,
)
from tensorguard.services.hints import Hint, HintKind, tell
from tensorguard.services.sinks.dead_letters import MAX_KEPT, SinkDeadLetter
from tensorguard.services.sinks.sink_events import GapReason
from tensorguard.services.sinks.sinks import Sink, find_sink
from tensorguard.siem.answer import Answer
from tensorguard.siem.item import Item
from tensorguard.store.ids import new_id
from tensorguard.store.tables import sink_dead_letters, sinks

EXPORTER: Final = Actor("service", "hub")
FAILING_TOLD_EVERY: Final = timedelta(minutes=10)
DEAD_TOLD_EVERY: Final = timedelta(minutes=1)
GAP_TOLD_EVERY: Final = timedelta(minutes=10)
TOLD_AFTER_FAILURES: Final = 3
TOLD_AFTER: Final = timedelta(seconds=30)
OWN_EVENTS: Final = "sink."
"""What is told of sinks; that such an entry was refused is not told again."""


class SinkChangedMeanwhile(Exception):
    """The row is not what was read: begin again from it."""


async def advance(
    session: AsyncSession,
    sink: Sink,
    *,
    epoch: int,
    next_index: int,
    sent: int,
    answer: Answer | None,
    redated: Sequence[int] = (),
    missing: Sequence[int] = (),
    now: datetime,
) -> Sink:
    """Move the cursor past what the destination has accepted, or past what there is not.

    Trouble ends with an acceptance. Raises: SinkChangedMeanwhile.
    """
    values: dict[str, Any] = {"epoch": epoch, "next_index": next_index}
    events: list[Event] = []
    hints: list[Hint] = []
    if answer is not None:
        values |= {
            "sent": sink.sent + sent,
            "last_sent_at": now,
            "answer_status": answer.status,
            "answer_text": answer.excerpt or answer.reason,
            "answered_at": now,
        }
        if sink.trouble_since is not None:
            values |= _calm()
            hints.append(Hint(HintKind.SINK, str(sink.id)))
            if sink.spell_told:
                since, failures = sink.trouble_since, sink.failures
                told = SinkRecovered(by=EXPORTER, sink_id=sink.id, since=since, failures=failures)
                events.append(told)
    if missing:  # at once, and of a batch once: whoever loses entries is not forgiven a count
        events.append(_gap(sink, "missing", len(missing), missing[0], missing[-1]))
    if redated:
        values |= {
            "gap_untold": sink.gap_untold + len(redated),
            "gap_first": min([*redated, *([] if sink.gap_first is None else [sink.gap_first])]),
            "gap_last": max([*redated, *([] if sink.gap_last is None else [sink.gap_last])]),
        }
    return await _write(session, sink, values, events, hints, now, as_read=False)


async def fail(
    session: AsyncSession, sink: Sink, answer: Answer, *, retry_at: datetime, now: datetime
) -> Sink:
    """Write down that the destination has not taken the batch, and when it is tried again.

    The ledger is told once a spell of failing has lasted, of ten minutes' spells once.
    Raises: SinkChangedMeanwhile.
    """
    is_new = sink.trouble_since is None
    since = sink.trouble_since or now
    failures, spells = sink.failures + 1, sink.spells + is_new
    values: dict[str, Any] = _trouble(answer, since, now) | {
        "failures": failures,
        "spells": spells,
        "retry_at": retry_at,
    }
    has_lasted = failures >= TOLD_AFTER_FAILURES or now - since >= TOLD_AFTER
    is_due = sink.failing_told_at is None or now - sink.failing_told_at >= FAILING_TOLD_EVERY
    events: list[Event] = []
    if has_lasted and is_due and not sink.spell_told:
        events.append(
            SinkFailing(
                by=EXPORTER,
                sink_id=sink.id,
                code=answer.code,
                status=answer.status,
                since=since,
                failures=failures,
                spells=spells,
            )
        )
        values |= {"spell_told": True, "failing_told_at": now, "spells": 0}
    is_other = is_new or answer.code != sink.trouble_code
    hints = [Hint(HintKind.SINK, str(sink.id))] if is_other else []
    return await _write(session, sink, values, events, hints, now)


async def stop(session: AsyncSession, sink: Sink, answer: Answer, *, now: datetime) -> Sink:
    """Send nothing more until a person resumes it. Raises: SinkChangedMeanwhile."""
    values = _trouble(answer, sink.trouble_since or now, now) | {
        "state": "stopped",
        "failures": sink.failures + 1,
        "retry_at": None,
    }
    event = SinkStopped(
        by=EXPORTER,
        sink_id=sink.id,
        code=answer.code,
        status=answer.status,
        epoch=sink.epoch,
        next_index=sink.next_index,
    )
    return await _write(session, sink, values, [event], [], now)


async def bury(
    session: AsyncSession, sink: Sink, item: Item, answer: Answer, now: datetime
) -> Sink:
    """Keep an entry that was refused for itself, and go on. Raises: SinkChangedMeanwhile."""
    values = {
        "id": new_id(),
        "sink_id": sink.id,
        "epoch": item.epoch,
        "leaf_index": item.leaf_index,
        "event_type": item.type,
        **_refusal(answer, now),
    }
    again = {**_refusal(answer, now), "attempts": sink_dead_letters.c.attempts + 1}
    statement = insert(sink_dead_letters).values(values)
    place = ["sink_id", "epoch", "leaf_index"]
    moved: dict[str, Any] = {
        "next_index": item.leaf_index + 1,
        "answer_status": answer.status,
        "answer_text": answer.excerpt or answer.reason,
        "answered_at": now,
    }
    if not item.type.startswith(OWN_EVENTS):
        moved["dead_untold"] = sink.dead_untold + 1
    hints = [Hint(HintKind.SINK, str(sink.id))]
    changed = await _write(session, sink, moved, [], hints, now)
    await session.execute(statement.on_conflict_do_update(index_elements=place, set_=again))
    return changed


async def is_full(session: AsyncSession, sink: Sink) -> bool:
    """Whether the sink has as many dead letters as are kept."""
    query = sa.select(sa.func.count()).select_from(sink_dead_letters)
    count = await session.execute(query.where(sink_dead_letters.c.sink_id == sink.id))
    return int(count.scalar_one()) >= MAX_KEPT


async def list_asked(session: AsyncSession, sink: Sink, *, limit: int) -> list[SinkDeadLetter]:
    """Return dead letters that somebody wants to be sent once more, the oldest entry first."""
    letter = sink_dead_letters.c
    query = (
        sa.select(sink_dead_letters)
        .where(letter.sink_id == sink.id, letter.replay_requested_at.is_not(None))
        .order_by(letter.epoch, letter.leaf_index)
        .limit(limit)
    )
    return [SinkDeadLetter(**row) for row in (await session.execute(query)).mappings()]


async def settle(
    session: AsyncSession, sink: Sink, letter: SinkDeadLetter, answer: Answer, *, now: datetime
) -> None:
    """Forget a dead letter that was taken after all, or keep it with the new answer."""
    mine = sink_dead_letters.c.id == letter.id
    if answer.is_accepted:
        await session.execute(sa.delete(sink_dead_letters).where(mine))
    else:
        values = {**_refusal(answer, now), "attempts": letter.attempts + 1}
        values |= {"replay_requested_at": None, "dead_at": letter.dead_at}
        await session.execute(sa.update(sink_dead_letters).where(mine).values(values))
    await tell(session, [Hint(HintKind.SINK, str(sink.id))], now=now)


async def tell_counts(session: AsyncSession, sink: Sink, *, now: datetime) -> Sink:
    """Tell the ledger of what was counted, where it is time. Raises: SinkChangedMeanwhile."""
    values: dict[str, Any] = {}
    events: list[Event] = []
    if sink.dead_untold and _is_due(sink.dead_told_at, DEAD_TOLD_EVERY, now):
        event = SinkDeadLettered(by=EXPORTER, sink_id=sink.id, count=sink.dead_untold)
        events.append(event)
        values |= {"dead_untold": 0, "dead_told_at": now}
    if sink.gap_untold and _is_due(sink.gap_told_at, GAP_TOLD_EVERY, now):
        assert sink.gap_first is not None
        assert sink.gap_last is not None
        events.append(_gap(sink, "too-old", sink.gap_untold, sink.gap_first, sink.gap_last))
        values |= {"gap_untold": 0, "gap_first": None, "gap_last": None, "gap_told_at": now}
    return await _write(session, sink, values, events, [], now) if values else sink


def _gap(sink: Sink, reason: GapReason, count: int, first: int, last: int) -> SinkGap:
    return SinkGap(
        by=EXPORTER,
        sink_id=sink.id,
        reason=reason,
        count=count,
        first_index=first,
        last_index=last,
    )


def _is_due(told_at: datetime | None, every: timedelta, now: datetime) -> bool:
    return told_at is None or now - told_at >= every


def _calm() -> dict[str, Any]:
    return {
        "failures": 0,
        "trouble_code": None,
        "trouble_reason": None,
        "trouble_since": None,
        "retry_at": None,
        "spell_told": False,
    }


def _trouble(answer: Answer, since: datetime, now: datetime) -> dict[str, Any]:
    return {
        "trouble_code": answer.code,
        "trouble_reason": answer.reason[:500],
        "trouble_since": since,
        "answer_status": answer.status,
        "answer_text": answer.excerpt,
        "answered_at": now,
    }


def _refusal(answer: Answer, now: datetime) -> dict[str, Any]:
    return {
        "code": answer.code,
        "reason": answer.reason[:500],
        "status": answer.status,
        "answer": answer.excerpt,
        "dead_at": now,
    }


async def _write(
    session: AsyncSession,
    sink: Sink,
    values: dict[str, Any],
    events: Sequence[Event],
    hints: Sequence[Hint],
    now: datetime,
    *,
    as_read: bool = True,
) -> Sink:
    row = sinks.c
    query = sa.update(sinks).where(
        row.id == sink.id, row.epoch == sink.epoch, row.next_index == sink.next_index
    )
    if as_read:
        query = query.where(row.revision == sink.revision, row.state == "active")
    result = await session.execute(query.values(values))
    if result.rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE's result has it
        raise SinkChangedMeanwhile
    await ledger.record_many(session, events, now=now)
    await tell(session, hints, now=now)
    changed = await find_sink(session, sink.id)
    assert changed is not None
    return changed
