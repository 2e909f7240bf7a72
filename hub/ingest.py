"""Intake to ack: bounded batches, one transaction each, PUBACK in order after the commit."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from hub import metrics
from hub.batch import Batch, condemn, sort
from hub.presence import pause
from hub.uplink import LeaseLost, Uplink, UplinkSource
from hub.work import Outcome, Work
from tensorguard.store.engine import store_error
from tensorguard.store.errors import StoreError

log = structlog.get_logger()
_LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True)
class _Part:
    """What is stored at once; `refused` says how often the database has refused it alone, `why`."""

    uplinks: Sequence[Uplink]
    refused: int = 0
    why: str = ""

    def batch(self) -> Batch:
        return (
            condemn(self.uplinks[0], self.refused, self.why) if self.refused else sort(self.uplinks)
        )

    def split(self, error: Exception) -> "list[_Part]":
        """Return what to try instead, last one first."""
        if len(self.uplinks) > 1:
            middle = len(self.uplinks) // 2
            return [_Part(self.uplinks[middle:]), _Part(self.uplinks[:middle])]
        why = f"{type(error).__name__}: {getattr(error, 'orig', error)}"
        return [_Part(self.uplinks, self.refused + 1, why)]


class Ingest:
    """Takes uplinks in, stores them, acks them. One at a time, so that order is kept."""

    def __init__(
        self, source: UplinkSource, work: Work, *, batch_messages: int, flush_after_s: float
    ) -> None:
        self._source = source
        self._work = work
        self._batch_messages = batch_messages
        self._flush_after_s = flush_after_s

    async def run(self, stop: asyncio.Event) -> None:
        """Store batches until `stop`, then what has already arrived, once."""
        while not stop.is_set():
            await self._step(stop, self._flush_after_s)
        self._source.finish()
        for _ in range(20):
            if not await self._step(stop, 0.0):
                return

    async def _step(self, stop: asyncio.Event, wait_s: float) -> bool:
        uplinks = await self._source.receive(self._batch_messages, wait_s)
        return bool(uplinks) and await self._store(uplinks, stop)

    async def _store(self, uplinks: Sequence[Uplink], stop: asyncio.Event) -> bool:
        """Store and ack a batch, waiting for the database as long as it takes; False if stopped.

        A batch whose content is refused is halved until the culprit stands alone. What is stored is
        acked part by part and never tried again; what is not stored is not acked.
        """
        parts, failures = [_Part(uplinks)], 0
        while parts:
            part = parts.pop()
            started = time.perf_counter()
            batch = part.batch()
            try:
                outcome = await self._work.store(batch, partial(self._fence, part.uplinks))
            except LeaseLost as lost:
                log.warning("batch_taken_over", messages=len(part.uplinks), kept=len(lost.kept))
                if lost.kept:
                    parts.append(replace(part, uplinks=lost.kept))
                continue
            except Exception as error:
                if _is_content(error) and part.refused < 2:
                    if len(part.uplinks) == 1:
                        log.exception("message_refused", topic=part.uplinks[0].topic)
                    parts += part.split(error)
                    continue
                parts.append(part)
                failures += 1
                if stop.is_set() and failures > 3:
                    return False
                await _wait(error, len(part.uplinks), failures, stop)
                continue
            failures = 0
            self._source.ack(part.uplinks)
            dropped = self._source.publish(outcome.downlinks)
            self._observe(part.uplinks, outcome, len(batch.dead_letters), dropped, started)
        return True

    async def _fence(self, uplinks: Sequence[Uplink], session: AsyncSession) -> None:
        await self._source.fence(session, uplinks)

    def _observe(
        self,
        uplinks: Sequence[Uplink],
        outcome: Outcome,
        dead: int,
        dropped: int,
        started: float,
    ) -> None:
        took_s = time.perf_counter() - started
        metrics.MESSAGES.inc(len(uplinks))
        metrics.HEARTBEATS.inc(outcome.heartbeats)
        metrics.EVENTS.inc(outcome.events)
        metrics.DEAD_LETTERS.inc(dead)
        metrics.DOWNLINKS_DROPPED.inc(dropped)
        metrics.BATCH_SECONDS.observe(took_s)
        log.debug(
            "batch_stored",
            messages=len(uplinks),
            heartbeats=outcome.heartbeats,
            events=outcome.events,
            dead_letters=dead,
            downlinks=len(outcome.downlinks),
            took_ms=round(took_s * 1000, 1),
        )


def _is_content(error: Exception) -> bool:
    """Tell whether the messages themselves may be at fault: then others are stored without them.

    Everything else that a database says is about the database: nothing is given up for it.
    """
    original = getattr(error, "orig", error)
    if store_error(error) is not None and not _is_limit(original):
        return False
    if isinstance(original, psycopg.Error):
        return isinstance(original, psycopg.DataError | psycopg.IntegrityError) or _is_limit(
            original
        )
    return not isinstance(original, sa.exc.SQLAlchemyError)


def _is_limit(error: BaseException) -> bool:
    # Class 54, "program limit exceeded": too large for an index, too deeply nested.
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith("54")


async def _wait(error: Exception, messages: int, failures: int, stop: asyncio.Event) -> None:
    outage = store_error(error) or StoreError(f"{type(error).__name__}: {error}"[:300])
    ceiling_s = min(_LONGEST_PAUSE_S, 0.1 * 2 ** min(failures, 10))
    wait_s = random.uniform(0, ceiling_s)  # noqa: S311 - jitter
    log.error(
        "batch_waits_for_database",
        messages=messages,
        failures=failures,
        code=outage.code,
        reason=outage.message,
        hint=outage.hint,
        retry_s=round(wait_s, 2),
    )
    await pause(stop, wait_s)
