"""A hub's share of the partitions: taken, read, given up, and begun anew when anything is wrong.

Whatever it is that goes wrong with a partition, from a gap in what is delivered to a stream that
was removed, has one answer: a new epoch, which begins behind what was acked.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import structlog
from nats.js import JetStreamContext

from hub import metrics
from hub.nats.buffer import Buffer
from hub.nats.client import IntakeClient
from hub.nats.consumers import (
    consumer_name,
    find_newest,
    list_consumers,
    make_consumer,
    remove_consumer,
)
from hub.nats.errors import Unreachable
from hub.nats.leases import Leases, Standing
from hub.nats.partition import PartitionIntake
from hub.nats.sending import PULL_HEARTBEAT_S, Outgoing

log = structlog.get_logger()

_SILENCE_S = 3 * PULL_HEARTBEAT_S
DRAIN_S = 5.0
_CONFIRM_S = 2.0
# What a request may bring at most, however large the messages are.
_PULL_BYTES = 4 * 1024**2


def most_unacked(intake_limit: int) -> int:
    """Return how many messages a consumer lets a hub hold: more than its intake ever asks for."""
    return 2 * intake_limit


class PartitionShare:
    """The partitions that one hub reads now."""

    def __init__(
        self, leases: Leases, outgoing: Outgoing, buffer: Buffer, *, intake_limit: int
    ) -> None:
        self._leases = leases
        self._outgoing = outgoing
        self._buffer = buffer
        self._intake_limit = intake_limit
        self._now_s: Callable[[], float] = asyncio.get_running_loop().time
        self._open: dict[int, PartitionIntake] = {}
        self._inboxes: dict[int, int] = {}
        self._acked = asyncio.Event()
        self._finished = False
        self.partitions = 0
        """How many there are in all."""
        self.standing: Standing | None = None
        self.hurry = asyncio.Event()
        """Set when a step should not wait for its time."""

    @property
    def numbers(self) -> list[int]:
        """The partitions that are read now."""
        return sorted(self._open)

    # What is received and committed

    def hand_out(self, last: Mapping[tuple[int, int], int]) -> None:
        """Note that all up to these sequences, by partition and epoch, is about to be stored."""
        for (number, epoch), sequence in last.items():
            intake = self._find(number, epoch)
            if intake is not None:
                intake.hand_out(sequence)

    def ack(self, last: Mapping[tuple[int, int], int]) -> None:
        """Ack all up to these sequences, by partition and epoch."""
        for (number, epoch), sequence in last.items():
            intake = self._find(number, epoch)
            reply = intake.ack(sequence) if intake is not None else None
            if reply is not None:
                self._outgoing.ack(consumer_name(number, epoch), reply)
        self._acked.set()

    def finish(self) -> None:
        """Take nothing more, and leave what is not handed out."""
        self._finished = True
        for intake in self._open.values():
            intake.close()
        self._buffer.forget(self._open)

    def drop_all(self) -> None:
        """Read nothing more: the connection is gone; what is not acked comes again."""
        for number in list(self._open):
            self._drop(number)
        self._inboxes.clear()
        metrics.PARTITIONS.set(0)

    # The leases

    async def step(self, client: IntakeClient, context: JetStreamContext) -> bool:
        """Look at the leases once; false where others are still to give up what is ours.

        Raises: nats' errors, sqlalchemy's.
        """
        self.standing = await self._leases.join()
        mine = await self._leases.renew()
        for number, intake in list(self._open.items()):
            if mine.get(number) != intake.epoch:
                log.warning("partition_lost", partition=number, epoch=intake.epoch)
                await self._forget(client, context, number)
            elif intake.waits_for_s > _SILENCE_S:
                self._on_broken(number, intake.epoch, "nothing comes, not even word that it is so")
        quota = self.standing.quota(self.partitions)
        if len(mine) > quota:
            await self._give_up(client, sorted(mine)[quota:], mine)
        elif len(mine) < quota:
            mine |= await self._leases.take(quota - len(mine))
        wanted = {number: mine[number] for number in mine if number not in self._open}
        if wanted and not self._finished:
            await self._begin(client, context, wanted)
        metrics.PARTITIONS.set(len(self._open))
        return len(mine) == quota

    async def _begin(
        self, client: IntakeClient, context: JetStreamContext, wanted: Mapping[int, int]
    ) -> None:
        """Read partitions that are held and not read, each in an epoch that no consumer had."""
        before, named = await list_consumers(context), await find_newest(client)
        window = max(1, self._intake_limit // len({*self._open, *wanted}))
        for intake in self._open.values():
            intake.window = window
        begun = []
        for number, held in sorted(wanted.items()):
            newest = before[number][-1].epoch if before.get(number) else -1
            if named.get(number, -1) > newest:  # where it has stopped is not known, so: later
                log.warning("consumer_does_not_answer", partition=number, epoch=named[number])
                continue
            epoch = held if newest < held else await self._leases.raise_epoch(number, newest)
            if epoch is None or self._finished:
                continue
            made = await make_consumer(
                context, number, epoch, before, unacked=most_unacked(self._intake_limit)
            )
            await self._read(client, number, epoch, made.info.name, window)
            begun.append(number)
        if begun:
            log.info("partitions_begun", partitions=begun, held=len(self._open))

    async def _read(
        self, client: IntakeClient, number: int, epoch: int, consumer: str, window: int
    ) -> None:
        inbox = client.new_inbox()
        intake = PartitionIntake(
            number,
            epoch,
            window=window,
            pull=partial(self._outgoing.pull, consumer, inbox, most_bytes=_PULL_BYTES),
            deliver=self._buffer.put,
            broken=partial(self._on_broken, number, epoch),
            now_s=self._now_s,
        )
        self._inboxes[number] = await client.hand_to(inbox, intake.take)
        self._open[number] = intake
        intake.ask()

    async def _give_up(
        self, client: IntakeClient, numbers: Sequence[int], mine: dict[int, int]
    ) -> None:
        """Release partitions that other hubs are to have, once what is in flight is acked."""
        going = [self._open[number] for number in numbers if number in self._open]
        for intake in going:
            intake.close()
        self._buffer.forget(numbers)
        with suppress(TimeoutError):  # then they come again to the next hub
            async with asyncio.timeout(DRAIN_S):
                while any(intake.in_flight for intake in going):
                    self._acked.clear()
                    await self._acked.wait()
        await self._outgoing.until_idle(DRAIN_S)
        for number in numbers:
            await self._confirm(client, self._open.get(number))
            await self._close_inbox(client, number)
            self._drop(number)
            mine.pop(number, None)
        await self._leases.release(numbers)
        log.info("partitions_given_up", partitions=list(numbers), held=len(self._open))

    async def _forget(self, client: IntakeClient, context: JetStreamContext, number: int) -> None:
        """Read a partition no more that is another hub's by now."""
        epoch = self._open[number].epoch
        await self._close_inbox(client, number)
        self._drop(number)
        with suppress(*Unreachable):
            await remove_consumer(context, consumer_name(number, epoch))

    async def confirm_acks(self, client: IntakeClient) -> None:
        """Have the server answer to the last acks: whoever is next begins behind them."""
        for intake in self._open.values():
            await self._confirm(client, intake)

    async def _confirm(self, client: IntakeClient, intake: PartitionIntake | None) -> None:
        if intake is not None and intake.last_ack is not None:
            with suppress(*Unreachable):
                await client.request(intake.last_ack.decode(), timeout=_CONFIRM_S)

    async def _close_inbox(self, client: IntakeClient, number: int) -> None:
        inbox = self._inboxes.pop(number, None)
        if inbox is not None:
            with suppress(*Unreachable):
                await client.forget(inbox)

    def _find(self, number: int, epoch: int) -> PartitionIntake | None:
        intake = self._open.get(number)
        return intake if intake is not None and intake.epoch == epoch else None

    def _drop(self, number: int) -> None:
        intake = self._open.pop(number, None)
        if intake is not None:
            intake.close()
            self._outgoing.forget(consumer_name(number, intake.epoch))
            self._buffer.forget([number])

    def _on_broken(self, number: int, epoch: int, why: str) -> None:
        if self._find(number, epoch) is not None:
            log.warning("partition_broken", partition=number, epoch=epoch, reason=why)
            metrics.PARTITIONS_BROKEN.inc()
            self._drop(number)
            self.hurry.set()
