"""Intake to ack: bounded batches, one transaction each, PUBACK in order after the commit."""

import asyncio
import random
import time
from collections.abc import Sequence

import structlog

from hub import metrics
from hub.batch import DeadLetter, dead_letter, sort
from hub.presence import pause
from hub.uplink import Uplink, UplinkSource
from hub.work import Outcome, Work
from tensorguard.protocol import topics
from tensorguard.protocol.errors import ProtocolError
from tensorguard.protocol.topics import UpTopic
from tensorguard.store.engine import store_error
from tensorguard.store.errors import StoreError

log = structlog.get_logger()
_LONGEST_PAUSE_S = 10.0


class Poison(ProtocolError):
    """A well-formed message that the database refuses; kept apart so that the stream goes on."""

    code = "poison"


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
        for _ in range(20):
            if not await self._step(stop, 0.0):
                return

    async def _step(self, stop: asyncio.Event, wait_s: float) -> int:
        uplinks = await self._source.receive(self._batch_messages, wait_s)
        if uplinks:
            await self._store(uplinks, stop)
        return len(uplinks)

    async def _store(self, uplinks: Sequence[Uplink], stop: asyncio.Event) -> None:
        """Store one batch, waiting for the database as long as it takes; unstored is not acked."""
        failures = 0
        while True:
            try:
                await self._store_or_split(uplinks)
                return
            except StoreError as error:
                failures += 1
                wait_s = random.uniform(0, min(_LONGEST_PAUSE_S, 0.1 * 2**failures))  # noqa: S311 - jitter
                log.error(
                    "batch_waits_for_database",
                    messages=len(uplinks),
                    failures=failures,
                    code=error.code,
                    reason=error.message,
                    hint=error.hint,
                    retry_s=round(wait_s, 2),
                )
                if stop.is_set() and failures > 3:
                    return
                await pause(stop, wait_s)

    async def _store_or_split(self, uplinks: Sequence[Uplink]) -> None:
        """Store a batch; if its content is refused, halve it until the culprit stands alone.

        Raises: StoreError while the database is unreachable, full or deadlocked.
        """
        try:
            await self._commit(uplinks, [])
        except Exception as error:
            if outage := store_error(error):
                raise outage from None
            if len(uplinks) > 1:
                middle = len(uplinks) // 2
                await self._store_or_split(uplinks[:middle])
                await self._store_or_split(uplinks[middle:])
                return
            reason = f"{type(error).__name__}: {getattr(error, 'orig', error)}"
            log.exception("message_poisoned", topic=uplinks[0].topic)
            await self._commit(uplinks, [_poison(uplinks[0], reason)])

    async def _commit(self, uplinks: Sequence[Uplink], instead: Sequence[DeadLetter]) -> None:
        started = time.perf_counter()
        batch = sort([] if instead else uplinks)
        batch.dead_letters.extend(instead)
        outcome = await self._work.store(batch)
        self._source.ack(uplinks)
        dropped = self._source.publish(outcome.downlinks)
        self._observe(uplinks, outcome, len(batch.dead_letters), dropped, started)

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


def _poison(uplink: Uplink, reason: str) -> DeadLetter:
    topic = topics.parse_up(uplink.topic)
    return dead_letter(uplink, topic if isinstance(topic, UpTopic) else None, Poison(reason))
