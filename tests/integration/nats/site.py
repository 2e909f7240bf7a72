"""A front of a real node, and who it may hear: what tests of either engine ask of a site."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, ClassVar

import msgspec
from nats.aio.client import Client
from nats.errors import TimeoutError as NothingYet
from nats.js.api import ConsumerConfig, DeliverPolicy, StreamConfig, SubjectTransform
from nats.js.client import JetStreamContext
from nats.js.errors import BadRequestError

from broker.denyset import DenySet
from broker.embedded.limits import Limits
from broker.nats.configuration import RETAINED, agents_stream
from broker.nats.front import NatsFront, NatsSetup
from broker.nats.keys import CalloutKeys
from broker.nats.metrics import NatsMetrics
from broker.session import End
from tensorguard.protocol.subjects import (
    FRONT_UP,
    PARTITIONS,
    STREAM,
    UP,
    to_subject,
    topic_of_stored,
)
from tests.integration.broker.certificates import (
    TRUST_DOMAIN,
    AgentCredentials,
    Credentials,
    Platform,
)
from tests.integration.broker.clock import Clock
from tests.integration.broker.wire import Wire, packet
from tests.integration.nats.server import RunningServer
from tests.integration.sites import FRONT_ID, REPORTS, Heard, Report
from tests.patience import PATIENCE_S

_LIMITS = Limits(report_every=timedelta(milliseconds=20), sweep_every=timedelta(milliseconds=20))


@dataclass
class Node:
    """A running server with its platform and the keys of its auth callout."""

    platform: Platform
    server: RunningServer
    keys: CalloutKeys


@dataclass
class NatsSite:
    """A front beside a node, with the same methods as the embedded engine's site."""

    engine: ClassVar[str] = "nats"

    node: Node
    front: NatsFront
    metrics: NatsMetrics
    clock: Clock
    after: int  # the stream's last message before this site
    opened: list[Wire] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    has_front: bool = True

    @property
    def platform(self) -> Platform:
        return self.node.platform

    @property
    def address(self) -> tuple[str, int]:
        return self.front.address

    @property
    def agents(self) -> int:
        """Live agents, as far as the front has been told."""
        return len(self.front.list_own())

    def refused(self, code: int) -> int:
        """The code of CONNACK by which this engine refuses what embedded refuses with `code`."""
        return 5

    def said(self, end: End) -> End:
        """The reason by which this engine calls an end: NATS does not tell why a socket closed."""
        return {End.LOST: End.DISCONNECT, End.IDLE: End.LOST}.get(end, end)

    def context(self, credentials: Credentials) -> ssl.SSLContext:
        return credentials.client_context(self.platform.ca_path)

    async def open(self, credentials: Credentials) -> Wire:
        """A connection that has said nothing yet."""
        wire = await Wire.open(self.address, self.context(credentials))
        self.opened.append(wire)
        return wire

    async def agent(self, credentials: AgentCredentials, **asked: object) -> Wire:
        """An admitted agent that has subscribed to what it may."""
        wire = await self.open(credentials)
        assert await wire.connect(credentials.client_id, **asked) == 0
        own, everybody = f"{credentials.down('#')}", f"tg/v1/{credentials.fleet}/all/down/#"
        assert await wire.subscribe(own, everybody) == [0, 0]
        return wire

    async def hub(self, client_id: str = "hub-1") -> "StreamHub":
        """A hub that reads the stream from where this site began."""
        client = await self.node.server.connect(self.platform.hub)
        self.clients.append(client)
        stream = client.jetstream()
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self.after + 1
        )
        reading = await stream.pull_subscribe("tgp.>", stream=STREAM, config=config)
        return StreamHub(client, reading)

    def counted(self, name: str, **labels: str) -> float:
        """The value of one of the front's metrics."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that happens on its own."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while not condition():  # noqa: ASYNC110  the front offers no event to wait for
                    await asyncio.sleep(0.01)
        assert condition(), what

    async def stored(self, stream: str) -> dict[str, Any]:
        """The state of a stream of the agents' account."""
        services = await self.node.server.connect(self.platform.service("broker"))
        try:
            answer = await services.request(agents_stream("INFO", stream), b"", timeout=5)
            return dict(json.loads(answer.data))
        finally:
            await services.close()

    async def retained(self) -> int:
        """Messages that are kept for later subscribers."""
        return int((await self.stored(RETAINED))["state"]["messages"])

    async def present(self, number: int) -> None:
        """Wait until so many agents are live."""
        await self.until(lambda: self.agents == number, f"{number} agents are live")

    async def stop_front(self) -> None:
        """Leave the node to itself, or to another front."""
        self.has_front = False
        await self.front.shutdown()

    async def close(self) -> None:
        for wire in self.opened:
            wire.abort()
        for client in self.clients:
            await client.close()
        if self.opened and self.has_front:
            with contextlib.suppress(AssertionError):
                await self.present(0)  # the next one begins with nobody
        await self.stop_front()


@dataclass
class StreamHub:
    """What a hub hears, in order; reports of the front apart from the agents' messages."""

    client: Client
    reading: JetStreamContext.PullSubscription
    aside: list[Heard] = field(default_factory=list)
    fetched: list[Heard] = field(default_factory=list)

    async def hear(self, timeout_s: float = PATIENCE_S) -> Heard:
        """The next message of an agent."""
        while True:
            heard = await self._next(timeout_s)
            if "/_front/" not in heard.topic:
                return heard
            self.aside.append(heard)

    async def report(self, kind: str) -> Report:
        """The next report of this kind; others are skipped."""
        while True:
            heard = self.aside.pop(0) if self.aside else await self._next(5.0)
            if heard.topic == f"tg/v1/_front/{FRONT_ID}/up/{kind}":
                return msgspec.json.decode(heard.payload, type=REPORTS[kind])

    async def enrollment(self) -> bytes:
        """The next request of a device, as a front vouches for it."""
        while (heard := await self._next(PATIENCE_S)).topic != f"tg/v1/_front/{FRONT_ID}/up/enroll":
            pass
        return heard.payload

    async def quiet(self, credentials: AgentCredentials, sentinel: Wire) -> list[str]:
        """Topics of all messages before a sentinel that this agent now publishes."""
        await sentinel.publish(credentials.up("event"), b"sentinel", qos=0)
        topics = []
        while (heard := await self.hear()).payload != b"sentinel":
            topics.append(heard.topic)
        return topics

    async def publish(self, topic: str, payload: bytes) -> None:
        """Say something to agents."""
        await self.client.publish(to_subject(topic), payload)
        await self.client.flush()

    async def leave(self) -> None:
        """Read no more."""
        await self.client.close()

    async def _next(self, timeout_s: float) -> Heard:
        if not self.fetched:
            for message in await self.reading.fetch(100, timeout=timeout_s):
                self.fetched.append(Heard(topic_of_stored(message.subject), message.data))
                await message.ack()
        return self.fetched.pop(0)


async def make_stream(node: Node) -> int:
    """Make the stream as a hub does, where it is not there; return its last message's number."""
    client = await node.server.connect(node.platform.hub)
    try:
        stream = client.jetstream()
        fleet, agent, kind = (f"{{{{wildcard({place})}}}}" for place in (1, 2, 3))
        with contextlib.suppress(BadRequestError):
            await stream.add_stream(
                StreamConfig(
                    name=STREAM,
                    subjects=[UP, FRONT_UP],
                    subject_transform=SubjectTransform(
                        src=UP,
                        dest=f"tgp.{{{{partition(4,2)}}}}.v1.{fleet}.{agent}.up.{kind}",
                    ),
                    metadata={PARTITIONS: "4"},
                )
            )
        return int((await stream.stream_info(STREAM)).state.last_seq)
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def nats_site(
    node: Node, *, denied: DenySet | None = None, **limits: object
) -> AsyncIterator[NatsSite]:
    """Start a front beside a node that runs."""
    after = await make_stream(node)
    clock, metrics = Clock(), NatsMetrics()
    front = NatsFront(
        NatsSetup(
            front_id=FRONT_ID,
            url=node.server.url,
            address=("127.0.0.1", node.server.mqtt_port),
            trust_domain=TRUST_DOMAIN,
            keys=node.keys,
            tls=lambda: node.platform.server_certificate.client_context(
                [node.platform.authority.certificate]
            ),
            cas=lambda: [node.platform.authority.certificate],
            denied=denied or DenySet(stale_after=None),
            log=node.server.log_path,
            limits=replace(_LIMITS, **limits),  # type: ignore[arg-type] # the test names real ones
            metrics=metrics,
            clock=clock,
        )
    )
    await front.start()
    site = NatsSite(node, front, metrics, clock, after)
    if not front.is_tidy:  # a new server makes its streams with its first client
        await (await site.agent(node.platform.agent())).say(packet(0xE0))
        await site.until(lambda: front.is_tidy, "the agents' streams are bounded")
        await site.present(0)
    try:
        yield site
    finally:
        await site.close()


__all__ = ["NatsSite", "Node", "NothingYet", "StreamHub", "make_stream", "nats_site"]
