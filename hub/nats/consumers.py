"""Consumers: one a partition and epoch, made where the one before it has stopped."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import NotFoundError

from tensorguard.protocol.subjects import STREAM, stored_in

log = structlog.get_logger()

# Redelivery is not how a hub's death is repaired: whoever takes over begins at the ack floor. It
# is for what a server sent and nobody received, which shows as a gap in the deliveries.
_ACK_WAIT_S = 60.0
_MAX_WAITING = 16
_NAME = re.compile(r"hub-(\d+)-(\d+)")
_PAGES = 16


def consumer_name(partition: int, epoch: int) -> str:
    """Return the name of the consumer that reads a partition in an epoch, and of no other."""
    return f"hub-{partition}-{epoch}"


@dataclass(frozen=True, slots=True)
class Consumer:
    """One that a hub has made."""

    partition: int
    epoch: int
    info: ConsumerInfo

    @property
    def acked(self) -> int:
        """The stream's sequence up to which everything of the partition is acked."""
        return self.info.ack_floor.stream_seq if self.info.ack_floor else 0

    @property
    def unread(self) -> int:
        """How many messages of the partition are not acked."""
        return (self.info.num_pending or 0) + (self.info.num_ack_pending or 0)


async def list_consumers(context: JetStreamContext) -> dict[int, list[Consumer]]:
    """Return the hubs' consumers by partition, the newest epoch last. Raises: nats' errors.

    In a cluster those are left out that have no leader at the moment: see `find_newest`.
    """
    found: dict[int, dict[int, Consumer]] = {}
    offset = 0
    for _ in range(_PAGES):
        page = await context.consumers_info(STREAM, offset)
        for info in page:
            if name := _NAME.fullmatch(info.name):
                partition, epoch = int(name[1]), int(name[2])
                found.setdefault(partition, {})[epoch] = Consumer(partition, epoch, info)
        offset += len(page)
        if len(page) < 256:
            break
    return {
        partition: [epochs[epoch] for epoch in sorted(epochs)]
        for partition, epochs in found.items()
    }


async def find_newest(client: Client) -> dict[int, int]:
    """Return the newest epoch of each partition that has a consumer, whether it answers or not.

    Raises: nats' errors.
    """
    newest: dict[int, int] = {}
    offset = 0
    for _ in range(_PAGES):
        request = json.dumps({"offset": offset}).encode()
        message = await client.request(f"$JS.API.CONSUMER.NAMES.{STREAM}", request, timeout=5)
        page = json.loads(message.data)
        names = page.get("consumers") or []
        for found in filter(None, map(_NAME.fullmatch, names)):
            partition, epoch = int(found[1]), int(found[2])
            newest[partition] = max(epoch, newest.get(partition, epoch))
        offset += len(names)
        if not names or offset >= page.get("total", 0):
            break
    return newest


async def make_consumer(
    context: JetStreamContext,
    partition: int,
    epoch: int,
    before: Mapping[int, list[Consumer]],
    *,
    unacked: int,
    since: datetime | None = None,
) -> Consumer:
    """Make the consumer of an epoch and remove those of older ones.

    It begins behind what the newest one `before` it has acked, or at `since`; with neither at the
    beginning of the stream: to read twice is harmless, and to skip is not. Raises: nats' errors.
    """
    older = before.get(partition, [])
    config = ConsumerConfig(
        durable_name=consumer_name(partition, epoch),
        filter_subject=stored_in(partition),
        ack_policy=AckPolicy.ALL,
        ack_wait=_ACK_WAIT_S,
        max_deliver=-1,
        max_ack_pending=unacked,
        max_waiting=_MAX_WAITING,
        deliver_policy=DeliverPolicy.ALL,
    )
    if since is not None:
        config.deliver_policy, config.opt_start_time = DeliverPolicy.BY_START_TIME, since
    elif older:
        config.deliver_policy = DeliverPolicy.BY_START_SEQUENCE
        config.opt_start_seq = older[-1].acked + 1
    made = await context.add_consumer(STREAM, config)
    for consumer in older:
        await remove_consumer(context, consumer.info.name)
    return Consumer(partition, epoch, made)


async def remove_consumer(context: JetStreamContext, name: str) -> None:
    """Remove a consumer, if it is there. Raises: nats' errors."""
    try:
        await context.delete_consumer(STREAM, name)
    except NotFoundError:
        log.debug("consumer_was_gone", consumer=name)
