"""How far hubs are behind, and how near the stream is to dropping what they have not read."""

import asyncio
from datetime import UTC, datetime, timedelta

import structlog
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from hub import metrics
from hub.nats.consumers import Consumer, list_consumers
from hub.nats.errors import Unreachable, reason
from tensorguard.protocol.subjects import STREAM, stored_in

log = structlog.get_logger()

LOOK_EVERY = timedelta(seconds=5)
ALERT_AT = 0.7
_ALERT_EVERY = timedelta(minutes=1)


class StreamWatch:
    """Looks at the stream every few seconds, tells metrics, and warns before anything is lost."""

    def __init__(self, context: JetStreamContext) -> None:
        self._context = context
        self._unread: dict[int, int] = {}
        self._alerted_at: datetime | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except Unreachable as error:
                log.warning("stream_not_watched", reason=reason(error))
            await asyncio.sleep(LOOK_EVERY.total_seconds())

    async def look(self) -> float:
        """Look once; return how much of the stream's bounds the uncommitted take."""
        info = await self._context.stream_info(STREAM)
        newest = [found[-1] for found in (await list_consumers(self._context)).values()]
        waiting = [consumer for consumer in newest if consumer.unread]
        unread = sum(consumer.unread for consumer in waiting)
        self._tell_discarded(newest, info.state.first_seq)
        now = datetime.now(UTC)
        oldest = await self._find_oldest(waiting, now)
        fill = max(
            _part(
                info.state.bytes * min(1.0, _part(unread, info.state.messages)),
                info.config.max_bytes,
            ),
            _part((now - oldest).total_seconds(), info.config.max_age),
        )
        metrics.STREAM_BYTES.set(info.state.bytes)
        metrics.STREAM_FILL.set(fill)
        metrics.UPLINK_LAG.set(unread)
        metrics.UPLINK_LAG_SECONDS.set((now - oldest).total_seconds())
        self._alert(fill, unread, now - oldest, now)
        return fill

    async def _find_oldest(self, waiting: list[Consumer], now: datetime) -> datetime:
        """Return when the oldest unread message came, and note where each partition's is."""
        oldest, self._unread = now, {}
        for consumer in waiting:
            try:
                message = await self._context.get_msg(
                    STREAM, consumer.acked + 1, stored_in(consumer.partition), next=True
                )
            except NotFoundError:  # acked, or dropped, in the meantime
                continue
            self._unread[consumer.partition] = message.seq or 0
            if message.time is not None:
                oldest = min(oldest, message.time)
        return oldest

    def _tell_discarded(self, newest: list[Consumer], first: int) -> None:
        """Say so when the stream begins behind what nobody had committed."""
        lost = [
            unread
            for consumer in newest
            for unread in [self._unread.get(consumer.partition, first)]
            if consumer.acked < unread < first
        ]
        if lost:
            at_most = first - min(lost)
            metrics.UPLINKS_DISCARDED.inc(at_most)
            log.error(
                "uplinks_discarded",
                at_most=at_most,
                partitions=len(lost),
                hint="Agents repeat their events; heartbeats are gone. Give the stream more room, "
                "or hubs more time: TG_NATS_STREAM_BYTES, more hubs.",
            )

    def _alert(self, fill: float, unread: int, behind: timedelta, now: datetime) -> None:
        if fill < ALERT_AT:
            if self._alerted_at is not None:
                log.info("uplinks_fill_the_stream_no_more", fill=round(fill, 2), unread=unread)
            self._alerted_at = None
        elif self._alerted_at is None or now - self._alerted_at >= _ALERT_EVERY:
            self._alerted_at = now
            log.error(
                "uplinks_fill_the_stream",
                fill=round(fill, 2),
                unread=unread,
                behind_s=round(behind.total_seconds(), 1),
                hint="At 1 the oldest are dropped unread: look at the database and at the hubs.",
            )


def _part(amount: float, bound: float | None) -> float:
    return amount / bound if bound and bound > 0 else 0.0
