"""Sending to one sink: in order, at least once, and on from where the destination has accepted."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Final
from uuid import UUID

import structlog

from hub.metrics import SINK_DEAD_LETTERS, SINK_FAILURES, SINK_LAG, SINK_LAG_SECONDS, SINK_SENT
from tensorguard.services.sinks import export_progress
from tensorguard.services.sinks.dead_letters import SinkDeadLetter
from tensorguard.services.sinks.export_progress import SinkChangedMeanwhile
from tensorguard.services.sinks.export_reading import Waiting, read_one, read_waiting
from tensorguard.services.sinks.sink_clients import Outside, open_client, open_sink_secrets
from tensorguard.services.sinks.sink_errors import SinkInvalid
from tensorguard.services.sinks.sinks import (
    Sink,
    count_waiting,
    find_sink,
    list_epoch_sizes,
)
from tensorguard.siem.answer import Answer, Verdict
from tensorguard.siem.errors import SiemError
from tensorguard.siem.item import Batch, Item, SinkClient
from tensorguard.siem.ocsf import to_item
from tensorguard.store.engine import SessionMaker
from tensorguard.vault.errors import VaultError
from tensorguard.vault.provider import KeyProvider

log = structlog.get_logger()
OPEN_FOR: Final = timedelta(minutes=5)
"""So long a client is used before its secrets are opened again: one that counts no more goes."""
MOST_REFUSED_IN_A_ROW: Final = 20
"""After so many entries, each refused for itself, it is not the entries that are at fault."""
_LETTERS_AT_ONCE: Final = 20
_SHAPED_AT_ONCE: Final = 250


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a sink waits: for new entries, and after failures by full jitter."""

    idle: timedelta = timedelta(seconds=1)
    first: timedelta = timedelta(seconds=1)
    most: timedelta = timedelta(minutes=5)

    def back_off(self, failures: int, asked: timedelta | None, random: Random) -> timedelta:
        """Return how long to wait after so many failures; never less than the far end asks for."""
        doublings: int = 2 ** min(failures, 20)
        jittered = min(self.most, self.first * doublings) * random.random()
        return max(jittered, asked or timedelta(0), self.first / 4)


@dataclass(frozen=True, kw_only=True)
class ExportWork:
    """What every sink's exporter works with."""

    sessions: SessionMaker
    kek: KeyProvider
    outside: Outside
    clock: Callable[[], datetime]
    random: Random
    pace: Pace = Pace()
    open_client: Callable[[Sink, list[str], Outside], SinkClient] = open_client


class SinkExport:
    """Sends to one sink; holds as much at most as its client takes at a time."""

    def __init__(self, sink_id: UUID, work: ExportWork) -> None:
        self._sink_id = sink_id
        self._work = work
        self._client: SinkClient | None = None
        self._revision = 0
        self._opened_at: datetime | None = None
        self._refused_in_a_row = 0
        self._name = ""

    async def step(self) -> timedelta | None:
        """Send what waits, a batch at most; return how long to rest, None where it is over.

        It is over once a person or an answer has stopped the sink, or it was deleted.
        """
        now = self._work.clock()
        async with self._work.sessions() as session:
            sink = await find_sink(session, self._sink_id)
        if sink is None or sink.state != "active":
            return None
        self._show_name(sink)
        if sink.retry_at is not None and sink.retry_at > now:
            return min(sink.retry_at - now, self._work.pace.idle)
        try:
            return await self._send_next(sink)
        except SinkChangedMeanwhile:
            return timedelta(0)

    async def close(self) -> None:
        """End connections, and show no figures of a sink that this hub does not send to."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        self._show_name(None)

    async def _send_next(self, sink: Sink) -> timedelta:
        try:
            client = await self._open(sink)
            if (trouble := await self._send_asked(sink, client)) is not None:
                stops = trouble.verdict is Verdict.STOPPED
                await (self._stop(sink, trouble) if stops else self._fail(sink, trouble))
                return timedelta(0)
            async with self._work.sessions() as session:
                waiting = await read_waiting(
                    session,
                    self._work.kek,
                    sink,
                    max_items=client.max_items * client.max_batches,
                    max_bytes=client.max_bytes // 2 * client.max_batches,
                    now=self._work.clock(),
                )
        except (VaultError, SiemError, SinkInvalid) as error:
            answer = Answer(verdict=Verdict.RETRY, code=error.code, reason=error.message)
            await self._fail(sink, answer)
            return timedelta(0)
        await self._measure(sink, waiting)
        if not waiting.moves(sink):
            sink = await self._tell_counts(sink)
            return self._work.pace.idle
        if not waiting.entries:
            await self._advance(sink, waiting.epoch, waiting.end, missing=waiting.missing)
            return timedelta(0)
        await self._deliver(sink, client, waiting)
        return timedelta(0)

    async def _open(self, sink: Sink) -> SinkClient:
        now = self._work.clock()
        is_old = self._opened_at is None or now - self._opened_at >= OPEN_FOR
        if self._client is not None and self._revision == sink.revision and not is_old:
            return self._client
        await self.close()
        self._show_name(sink)
        async with self._work.sessions() as session:
            secrets = await open_sink_secrets(session, self._work.kek, sink, now=now)
        self._client = self._work.open_client(sink, secrets, self._work.outside)
        self._revision, self._opened_at = sink.revision, now
        return self._client

    async def _deliver(self, sink: Sink, client: SinkClient, waiting: Waiting) -> None:
        """Send a batch; where the far end refuses it, in halves down to what it refuses."""
        items: list[Item] = []
        for placed in waiting.entries:
            items.append(to_item(placed, trust_domain=self._work.outside.trust_domain))
            if len(items) % _SHAPED_AT_ONCE == 0:
                await asyncio.sleep(0)  # the hub has more to do
        parts = [Batch(part, waiting.checkpoint) for part in _fitting(items, client)]
        parts.reverse()
        while parts:
            now, before = self._work.clock(), sink.revision
            some = parts[: -client.max_batches - 1 : -1]
            for part, answer in zip(some, await client.send_several(some, now=now), strict=False):
                parts.pop()
                if answer.is_accepted:
                    self._refused_in_a_row = 0
                    sink = await self._accepted(sink, client, part, answer, waiting, not parts)
                elif (left := await self._not_accepted(sink, part, answer, parts)) is None:
                    return
                else:
                    sink = left
            if sink.revision != before:
                return  # somebody has changed or paused it
        await self._tell_counts(sink)

    async def _not_accepted(
        self, sink: Sink, part: Batch, answer: Answer, parts: list[Batch]
    ) -> Sink | None:
        """Put smaller parts in the place of one that was refused; None where no more is sent."""
        match answer.verdict:
            case Verdict.REFUSED | Verdict.TOO_LARGE if len(part.items) > 1:
                parts.extend(reversed(_narrowed(part, answer)))
                return sink
            case Verdict.REFUSED | Verdict.TOO_LARGE:
                return await self._bury(sink, part, answer)
            case Verdict.STOPPED:
                await self._stop(sink, answer)
            case _:
                await self._fail(sink, answer)
        return None

    async def _accepted(
        self,
        sink: Sink,
        client: SinkClient,
        part: Batch,
        answer: Answer,
        waiting: Waiting,
        is_last: bool,
    ) -> Sink:
        now = self._work.clock()
        redated = [one.leaf_index for one in part.items if client.redated(one, now)]
        sink = await self._advance(
            sink,
            waiting.epoch,
            part.items[-1].leaf_index + 1,
            sent=len(part.items),
            answer=answer,
            redated=redated,
            missing=waiting.missing if is_last else (),
        )
        SINK_SENT.labels(self._name).inc(len(part.items))
        return sink

    async def _advance(self, sink: Sink, epoch: int, next_index: int, **told: object) -> Sink:
        values = {"sent": 0, "answer": None} | told
        async with self._work.sessions.begin() as session:
            return await export_progress.advance(
                session,
                sink,
                epoch=epoch,
                next_index=next_index,
                now=self._work.clock(),
                **values,  # type: ignore[arg-type]  # the keywords of `advance`, handed on
            )

    async def _bury(self, sink: Sink, part: Batch, answer: Answer) -> Sink | None:
        [item] = part.items
        now = self._work.clock()
        async with self._work.sessions.begin() as session:
            full = await export_progress.is_full(session, sink)
            if not full:
                sink = await export_progress.bury(session, sink, item, answer, now)
        if not full:
            self._refused_in_a_row += 1
            SINK_DEAD_LETTERS.labels(self._name).inc()
            log.warning(
                "sink_entry_refused",
                sink=str(sink.id),
                leaf_index=item.leaf_index,
                code=answer.code,
                status=answer.status,
            )
            if self._refused_in_a_row < MOST_REFUSED_IN_A_ROW:
                return sink
        code = "dead-letters-full" if full else "everything-refused"
        stopped = Answer(
            verdict=Verdict.STOPPED,
            code=code,
            reason=f"every entry is refused: {answer.reason}",
            status=answer.status,
            excerpt=answer.excerpt,
        )
        await self._stop(sink, stopped)
        self._refused_in_a_row = 0
        return None

    async def _send_asked(self, sink: Sink, client: SinkClient) -> Answer | None:
        """Send dead letters once more that somebody wants to be; return what is in the way."""
        async with self._work.sessions() as session:
            letters = await export_progress.list_asked(session, sink, limit=_LETTERS_AT_ONCE)
        for letter in letters:
            answer = await self._send_letter(sink, client, letter)
            if answer.verdict in (Verdict.RETRY, Verdict.STOPPED):
                return answer  # about the sink, not the entry, which stays asked for
            async with self._work.sessions.begin() as session:
                now = self._work.clock()
                await export_progress.settle(session, sink, letter, answer, now=now)
        return None

    async def _send_letter(self, sink: Sink, client: SinkClient, letter: SinkDeadLetter) -> Answer:
        now = self._work.clock()
        async with self._work.sessions() as session:
            waiting = await read_one(
                session,
                self._work.kek,
                sink,
                epoch=letter.epoch,
                leaf_index=letter.leaf_index,
                now=now,
            )
        trust_domain = self._work.outside.trust_domain
        items = [to_item(placed, trust_domain=trust_domain) for placed in waiting.entries]
        if not items:
            reason = "the ledger's database has lost this entry"
            return Answer(verdict=Verdict.REFUSED, code="entry-missing", reason=reason)
        return await client.send(Batch(items, waiting.checkpoint), now=now)

    async def _fail(self, sink: Sink, answer: Answer) -> None:
        now = self._work.clock()
        wait = self._work.pace.back_off(sink.failures, answer.retry_after, self._work.random)
        async with self._work.sessions.begin() as session:
            await export_progress.fail(session, sink, answer, retry_at=now + wait, now=now)
        SINK_FAILURES.labels(self._name, answer.code).inc()
        log.warning(
            "sink_failed",
            sink=str(sink.id),
            code=answer.code,
            reason=answer.reason,
            failures=sink.failures + 1,
            retry_s=round(wait.total_seconds(), 3),
        )

    async def _stop(self, sink: Sink, answer: Answer) -> None:
        async with self._work.sessions.begin() as session:
            await export_progress.stop(session, sink, answer, now=self._work.clock())
        SINK_FAILURES.labels(self._name, answer.code).inc()
        log.error("sink_stopped", sink=str(sink.id), code=answer.code, reason=answer.reason)

    async def _tell_counts(self, sink: Sink) -> Sink:
        if not (sink.dead_untold or sink.gap_untold):
            return sink
        async with self._work.sessions.begin() as session:
            return await export_progress.tell_counts(session, sink, now=self._work.clock())

    async def _measure(self, sink: Sink, waiting: Waiting) -> None:
        async with self._work.sessions() as session:
            sizes = await list_epoch_sizes(session)
        SINK_LAG.labels(self._name).set(count_waiting(sink, sizes))
        oldest = waiting.entries[0].time if waiting.entries else None
        age = timedelta(0) if oldest is None else self._work.clock() - oldest
        SINK_LAG_SECONDS.labels(self._name).set(max(0.0, age.total_seconds()))

    def _show_name(self, sink: Sink | None) -> None:
        """Under a sink's own name its figures stand; they go with it."""
        name = "" if sink is None else sink.name
        if self._name not in ("", name):
            for gauge in (SINK_LAG, SINK_LAG_SECONDS):
                with suppress(KeyError):
                    gauge.remove(self._name)
        self._name = name


def _fitting(items: list[Item], client: SinkClient) -> list[list[Item]]:
    """Split items in their order into parts that a request takes; one alone may be too large."""
    parts: list[list[Item]] = []
    used = 0
    for item in items:
        size = len(item.document)
        is_full = bool(parts) and len(parts[-1]) >= client.max_items
        if not parts or is_full or used + size > client.max_bytes:
            parts.append([])
            used = 0
        parts[-1].append(item)
        used += size
    return parts


def _narrowed(part: Batch, answer: Answer) -> list[Batch]:
    """Halves; or what stands before the item that the far end names, that item, and the rest."""
    bad, count = answer.bad_item, len(part.items)
    if answer.verdict is Verdict.REFUSED and bad is not None and bad < count:
        before, rest = part.split(bad)
        alone, after = rest.split(1)
        return [piece for piece in (before, alone, after) if piece.items]
    return list(part.split(count // 2))
