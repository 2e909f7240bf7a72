"""Uplinks from JetStream, one of any number of hubs; a connection that is made again and again.

Leases are kept only while it is there: a hub that cannot reach NATS loses its partitions to those
that can. Nothing that goes wrong here ends the hub.
"""

import asyncio
import random
import secrets
import ssl
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from types import TracebackType

import psycopg
import sqlalchemy as sa
import structlog
from nats.js import JetStreamContext
from sqlalchemy.ext.asyncio import AsyncSession

from hub import metrics
from hub.downlink import Downlink
from hub.nats.buffer import Buffer
from hub.nats.client import IntakeClient, connect, place_of
from hub.nats.errors import NatsError, Unreachable, reason
from hub.nats.leases import LEASE, Leases
from hub.nats.sending import Outgoing
from hub.nats.share import DRAIN_S, PartitionShare
from hub.nats.stream import StreamSettings, ensure_stream
from hub.nats.watch import StreamWatch
from hub.uplink import LeaseLost, Uplink
from tensorguard.store.engine import SessionMaker

log = structlog.get_logger()

_LONGEST_PAUSE_S = 10.0
_STEPS_A_LEASE = 5
_SHORT_S = 1.0
_DATABASE = (sa.exc.SQLAlchemyError, psycopg.Error)


class JetStreamUplink(AbstractAsyncContextManager["JetStreamUplink"]):
    """An `UplinkSource` over NATS: a fair share of the stream's partitions."""

    def __init__(
        self,
        *,
        urls: Sequence[str],
        tls: ssl.SSLContext,
        sessions: SessionMaker,
        stream: StreamSettings,
        intake_limit: int,
        downlink_limit: int,
        lease: timedelta = LEASE,
    ) -> None:
        self.connected = asyncio.Event()
        self.hub_id = f"hub-{secrets.token_hex(4)}"
        self._urls = urls
        self._tls = tls
        self._settings = stream
        self._leases = Leases(sessions, self.hub_id, lease)
        self._outgoing = Outgoing(downlink_limit)
        self._buffer = Buffer()
        self._share = PartitionShare(
            self._leases, self._outgoing, self._buffer, intake_limit=intake_limit
        )
        self._lost = asyncio.Event()
        self._finishing = False
        self._client: IntakeClient | None = None
        self._task: asyncio.Task[None] | None = None

    # What the hub asks

    async def __aenter__(self) -> "JetStreamUplink":
        self._task = asyncio.create_task(self._stay_connected(), name="nats-connection")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish()
        held, client = self.partitions, self._client
        if client is not None and not client.is_closed:
            await self._outgoing.until_idle(DRAIN_S)
            await self._share.confirm_acks(client)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._leases.leave()
            log.info("partitions_released", partitions=held)
        except (*_DATABASE, TimeoutError) as failure:
            log.warning("partitions_not_released", reason=reason(failure))

    @property
    def leads(self) -> bool:
        """See UplinkSource: the eldest of those alive."""
        standing = self._share.standing
        return standing is not None and standing.rank == 0

    @property
    def share(self) -> float:
        """See UplinkSource."""
        return len(self.partitions) / self._share.partitions if self._share.partitions else 0.0

    @property
    def partitions(self) -> list[int]:
        """The partitions that this hub reads now."""
        return self._share.numbers

    def use(self, tls: ssl.SSLContext) -> None:
        """See UplinkSource; connects anew at once, and what was not acked comes again."""
        self._tls = tls
        self._lost.set()

    async def receive(self, most: int, wait_s: float) -> list[Uplink]:
        """See UplinkSource."""
        taken = await self._buffer.take(most, wait_s)
        self._share.hand_out(_last_of(taken))
        return taken

    def finish(self) -> None:
        """See UplinkSource."""
        self._finishing = True
        self._share.finish()

    async def fence(self, session: AsyncSession, uplinks: Sequence[Uplink]) -> None:
        """See UplinkSource."""
        used = _last_of(uplinks)
        epochs = dict(sorted(used))
        held = await self._leases.hold(session, epochs)
        good = {(number, epochs[number]) for number in held}
        if len(good) < len(used):
            raise LeaseLost([u for u in uplinks if (u.receipt[0], u.receipt[1]) in good])

    def ack(self, uplinks: Sequence[Uplink]) -> None:
        """See UplinkSource."""
        self._share.ack(_last_of(uplinks))

    def publish(self, downlinks: Sequence[Downlink]) -> int:
        """See UplinkSource."""
        return self._outgoing.publish(downlinks)

    # The connection

    async def _stay_connected(self) -> None:
        failures = 0
        while True:
            lost = self._lost = asyncio.Event()

            async def end(lost: asyncio.Event = lost) -> None:
                lost.set()

            try:
                client = await connect(self._urls, self._tls, name=self.hub_id, ended=end)
                began = time.monotonic()
                try:
                    await self._serve(client)
                finally:
                    self._forget_connection()
                    await client.close()
                if time.monotonic() - began < _SHORT_S:
                    raise NatsError("the connection did not last", hint="See the server's log.")
                failures = 0
            except (*Unreachable, *_DATABASE, NatsError) as error:
                failures += 1
                await _pause(error, failures)
            except Exception as error:  # a hub that does not read must not look as if it did
                failures += 1
                log.exception("nats_connection_failed")
                await _pause(error, failures)

    async def _serve(self, client: IntakeClient) -> None:
        """Serve as long as this connection lasts."""
        context = client.jetstream()
        await self._look_at_stream(context)
        self._client = client
        metrics.NATS_CONNECTED.set(1)
        server = place_of(client.connected_url.geturl() if client.connected_url else "")
        log.info("nats_connected", server=server, partitions=self._share.partitions)
        tasks = [
            asyncio.create_task(self._keep_leases(client, context), name="nats-leases"),
            asyncio.create_task(self._outgoing.run(client), name="nats-sending"),
            asyncio.create_task(self._lost.wait(), name="nats-lost"),
            asyncio.create_task(StreamWatch(context).run(), name="nats-watch"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        log.warning("nats_lost", server=server)

    def _forget_connection(self) -> None:
        """What was received over it and is not being stored is left; it comes again."""
        self.connected.clear()
        metrics.NATS_CONNECTED.set(0)
        self._client = None
        self._share.drop_all()

    async def _look_at_stream(self, context: JetStreamContext) -> None:
        self._share.partitions = await ensure_stream(context, self._settings)
        await self._leases.set_up(self._share.partitions)

    async def _keep_leases(self, client: IntakeClient, context: JetStreamContext) -> None:
        """Keep leases, and the share of partitions fair, until cancelled."""
        every_s, doubtful = self._leases.lease.total_seconds() / _STEPS_A_LEASE, False
        while not self._finishing:
            self._share.hurry.clear()
            settled = True
            try:
                if doubtful:
                    await self._look_at_stream(context)
                settled = await self._share.step(client, context)
                self.connected.set()
                doubtful = False
            except _DATABASE as error:
                log.error("leases_not_renewed", reason=str(getattr(error, "orig", error)))
            except (*Unreachable, NatsError) as error:
                doubtful = True
                if not client.is_closed:
                    log.error("partitions_not_begun", reason=reason(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s if settled else every_s / 8):
                    await self._share.hurry.wait()
        await self._lost.wait()


async def _pause(error: BaseException, failures: int) -> None:
    ceiling_s = min(_LONGEST_PAUSE_S, 0.25 * 2 ** min(failures, 10))
    wait_s = random.uniform(0.1, ceiling_s)  # noqa: S311 - jitter
    known = error if isinstance(error, NatsError) else NatsError(reason(error))
    what = "database" if isinstance(error, _DATABASE) else "nats"
    log.error(
        f"{what}_not_usable",
        code=known.code,
        reason=known.message,
        hint=known.hint,
        failures=failures,
        retry_s=round(wait_s, 2),
    )
    await asyncio.sleep(wait_s)


def _last_of(uplinks: Sequence[Uplink]) -> dict[tuple[int, int], int]:
    """Return the last sequence of each partition and epoch."""
    return {(uplink.receipt[0], uplink.receipt[1]): uplink.receipt[2] for uplink in uplinks}
