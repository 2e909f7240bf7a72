"""What a front says to hubs, on its way into the stream: until JetStream has confirmed it.

It is also the router of the enrollment listener, whose hubs are the same stream.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker.embedded.limits import Limits
from broker.embedded.metrics import FrontMetrics
from broker.embedded.routing import Router
from broker.errors import FrontError
from broker.front import UpMessage
from broker.nats.configuration import STREAM_INFO
from broker.nats.errors import StreamUnusable
from broker.nats.link import Link, ask
from broker.nats.metrics import NatsMetrics
from tensorguard.protocol.errors import BadTopic
from tensorguard.protocol.subjects import PARTITIONS, STREAM, partition_of, to_subject, to_topic

_log = structlog.get_logger()
# Each speaker has one lane, so that what it says stays in order; a lane waits for its PubAck.
_LANES: Final = 64
_IN_LANE: Final = 200
_RETRY_S: Final = (0.1, 5.0)
_SAY_EVERY: Final = 20
_PUT_WITHIN_S: Final = 15.0


class _Said(NamedTuple):
    speaker: str
    message: UpMessage


class _Config(msgspec.Struct):
    metadata: dict[str, str] = {}


class _Answer(msgspec.Struct):
    error: dict[str, object] | None = None
    config: _Config | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class JetStreamRouter(Router):
    """Queues messages, and publishes each until the stream has it.

    What is queued is lost with the process: sessions are told again at the next start.
    """

    def __init__(
        self,
        link: Callable[[], Link],
        limits: Limits,
        metrics: NatsMetrics,
    ) -> None:
        # A registry of its own: this router counts nothing that the embedded one does.
        super().__init__(limits, FrontMetrics())
        self._link = link
        self._partitions: int | None = None
        self._counted = metrics
        self._lanes = [asyncio.Queue[_Said](_IN_LANE) for _ in range(_LANES)]
        self._failures = 0
        metrics.untold.set_function(lambda: sum(lane.qsize() for lane in self._lanes))

    @property
    def has_hub(self) -> bool:
        """Tell whether the stream took what it was last given, and the node is there."""
        return self._link().is_up.is_set() and not self._failures

    def offer_up(self, speaker: str, message: UpMessage, *, or_drop: bool = True) -> bool:
        """Queue for the stream without waiting; False where there is no room."""
        try:
            self._lane_of(speaker).put_nowait(_Said(speaker, message))
        except asyncio.QueueFull:
            if or_drop:
                self._counted.dropped.labels("stream-full").inc()
            return False
        return True

    async def put_up(self, speaker: str, message: UpMessage) -> bool:
        """Queue for the stream, waiting for room within bounds; False where lost."""
        try:
            async with asyncio.timeout(_PUT_WITHIN_S):
                await self._lane_of(speaker).put(_Said(speaker, message))
        except TimeoutError:
            self._counted.dropped.labels("stream-full").inc()
            return False
        return True

    async def run(self) -> None:
        """Publish what is queued, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for lane in self._lanes:
                tasks.create_task(self._empty(lane))

    async def listen(self, client: Client, subject: str) -> None:
        """Deliver to devices what hubs publish below `subject`."""

        async def deliver(message: Msg) -> None:
            try:
                await self.deliver_down(to_topic(message.subject), message.data)
            except BadTopic:
                _log.warning("down_message_ignored", subject=message.subject[:200])

        await client.subscribe(subject, cb=deliver, pending_msgs_limit=1000)

    def forget_partitions(self) -> None:
        """Ask for them again: the stream behind another connection may be another one."""
        self._partitions = None

    def _lane_of(self, speaker: str) -> asyncio.Queue[_Said]:
        return self._lanes[partition_of(speaker, _LANES)]

    async def _empty(self, lane: asyncio.Queue[_Said]) -> None:
        while True:
            said = await lane.get()
            failures = 0
            while not await self._publish(said):
                failures += 1
                first, most = _RETRY_S
                pause_s = min(most, first * 2.0 ** min(failures, 10))
                await asyncio.sleep(random.uniform(first / 2, pause_s))  # noqa: S311  spreads load only

    async def _publish(self, said: _Said) -> bool:
        link = self._link()
        await link.is_up.wait()
        try:
            if self._partitions is None:
                self._partitions = await _read_partitions(link.client)
            partition = partition_of(said.speaker, self._partitions)
            below = to_subject(said.message.topic).removeprefix("tg.")
            answer = await ask(link.client, f"tgp.{partition}.{below}", said.message.payload)
            if _decode(answer).error is not None:
                raise StreamUnusable(f"the stream refuses a report: {answer[:200]!r}")
        except (FrontError, msgspec.DecodeError) as error:
            self._failures += 1
            if self._failures % _SAY_EVERY == 1:
                _log.warning("reports_not_taken", error=str(error))
            return False
        self._failures = 0
        return True


async def _read_partitions(client: Client) -> int:
    """Return how many partitions the hubs' stream has. Raises: StreamUnusable, NodeUnreachable."""
    config = _decode(await ask(client, STREAM_INFO, b"")).config
    number = config.metadata.get(PARTITIONS, "") if config is not None else ""
    if not number.isdecimal() or int(number) < 1:
        raise StreamUnusable(f"no hub has made the stream {STREAM} yet")
    return int(number)
