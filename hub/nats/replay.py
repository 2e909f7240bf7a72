"""Reading the stream again from a time, for what a database has lost: while hubs run, or do not.

Every partition is taken from whoever holds it, given a consumer that begins then, and released: the
hubs notice, and go on from there. What is stored already is stored once: heartbeats by their
(boot, seq), events by their number. What fronts denied, and dead letters, are counted again.
"""

import asyncio
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from nats.js.errors import NotFoundError

from hub.nats.client import connect
from hub.nats.consumers import find_newest, list_consumers, make_consumer
from hub.nats.errors import NatsError, Unreachable, reason
from hub.nats.leases import Leases
from hub.nats.stream import find_partitions
from tensorguard.store.engine import SessionMaker

log = structlog.get_logger()

# Until its consumer is there nobody else may take a partition.
_HELD_FOR = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Replay:
    """What will be read again: so many messages, of so many partitions."""

    partitions: int
    messages: int


async def replay(
    sessions: SessionMaker,
    urls: Sequence[str],
    tls: ssl.SSLContext,
    *,
    since: datetime,
    unacked: int,
) -> Replay:
    """Have hubs read everything that came since then again, as far as the stream still has it.

    `unacked` is how many messages of a partition a hub may hold. Raises: NatsError, sqlalchemy's.
    """
    client = await connect(urls, tls, name="hub-replay", ended=_nothing)
    try:
        context = client.jetstream()
        leases = Leases(sessions, f"replay-{secrets.token_hex(4)}", _HELD_FOR)
        partitions = await find_partitions(context)
        await leases.set_up(partitions)
        messages = 0
        before, named = await list_consumers(context), await find_newest(client)
        if any(number not in before for number in named):
            raise NatsError("some consumers do not answer", hint="Try again in a minute.")
        for number in range(partitions):
            epoch = await leases.seize(number)
            newest = before[number][-1].epoch if before.get(number) else -1
            if newest >= epoch:
                epoch = await leases.raise_epoch(number, newest) or epoch
            made = await make_consumer(context, number, epoch, before, unacked=unacked, since=since)
            messages += made.unread  # before a hub takes it over, and reads
            await leases.release([number])
    except NotFoundError:
        raise NatsError("there is no stream yet", hint="A hub makes it when it starts.") from None
    except Unreachable as error:
        raise NatsError(f"the replay stopped half-way: {reason(error)}") from None
    finally:
        await client.close()
    log.info("replay_begun", since=since.isoformat(), partitions=partitions, messages=messages)
    return Replay(partitions, messages)


async def _nothing() -> None:
    await asyncio.sleep(0)
