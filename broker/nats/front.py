"""The front of one NATS node: admits for all nodes, ends sessions on all, tells of its own.

The node holds the sockets and keeps agents to their subjects; it asks us who may come in, and tells
us who came and went.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from ssl import SSLContext
from typing import Final

import structlog
from cryptography import x509
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker.denyset import DenySet, Revocation
from broker.embedded.limits import Limits
from broker.engine import utc_now
from broker.nats.configuration import DEVICE_DOWN
from broker.nats.denials import Denials
from broker.nats.errors import BadEvent, NodeUnreachable
from broker.nats.events import EVENTS, read_event
from broker.nats.keys import CalloutKeys
from broker.nats.kicker import Kick, Kicker
from broker.nats.link import Link, server_id
from broker.nats.log import NodeLog
from broker.nats.metrics import NatsMetrics
from broker.nats.responder import QUEUE, SUBJECT, Responder
from broker.nats.sessions import Place, Sessions
from broker.nats.tidying import tidy
from broker.nats.upward import JetStreamRouter
from broker.nats.watch import list_sessions
from broker.reports import Bounds, Reports
from broker.session import End, Session

_log = structlog.get_logger()
# Of events that wait to be read; with more the map is made anew from lists.
_EVENTS_WAITING: Final = 100_000
_REASONS: Final = 20_000
_LINK: Final = "node"


@dataclass(frozen=True, kw_only=True)
class NatsSetup:
    """What a NATS front is given; `tls` and `cas` are asked each time, so that they may change."""

    front_id: str
    url: str
    address: tuple[str, int]
    trust_domain: str
    keys: CalloutKeys
    tls: Callable[[], SSLContext]
    cas: Callable[[], Sequence[x509.Certificate]]
    denied: DenySet
    log: Path | None = None
    limits: Limits = field(default_factory=Limits)
    list_every: timedelta = timedelta(seconds=60)
    start_within: timedelta = timedelta(seconds=60)
    metrics: NatsMetrics = field(default_factory=NatsMetrics)
    clock: Callable[[], datetime] = utc_now


class NatsFront:
    """Responder, kicker, and reporter of the node's sessions; start it, and shut it down."""

    def __init__(self, setup: NatsSetup) -> None:
        self._setup = setup
        self._metrics = metrics = setup.metrics
        self._own = ""
        # Ids that our node has had: each start of a server gives it another.
        self._owned: deque[str] = deque(maxlen=8)
        self._client: Client | None = None
        self.is_tidy = self._has_met_agents = False
        self.sessions = Sessions()
        # Why we are about to end sessions; their DISCONNECT says "Kicked" whatever the reason.
        self._reasons: OrderedDict[Place, End] = OrderedDict()
        self._ended: dict[int, int] = {}
        self._link = Link(
            setup.url, setup.front_id, setup.tls, on_up=self._arrive, on_down=self._leave
        )
        self.router = JetStreamRouter(lambda: self._link, setup.limits, metrics)
        bounds = Bounds(
            setup.limits.report_every, setup.limits.denied_keys, setup.limits.connections
        )
        self.reports = Reports(setup.front_id, self.router, metrics.denied, setup.clock, bounds)
        self.responder = Responder(
            setup.keys,
            setup.trust_domain,
            setup.cas,
            setup.denied,
            self.reports,
            metrics,
            setup.clock,
        )
        self._kicker = Kicker(metrics)
        self._denials = Denials(self, self.reports, metrics, setup.limits.denials_per_minute)
        self._node_log = NodeLog(setup.log, metrics, self._denials.take)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        metrics.connections.labels("agent").set_function(lambda: len(self.list_own()))
        metrics.known.set_function(lambda: len(self.sessions))

    @property
    def address(self) -> tuple[str, int]:
        """Where the node listens for agents."""
        return self._setup.address

    async def start(self) -> None:
        """Reach the node, end what is denied there, and answer from then on.

        Raises: NodeUnreachable.
        """
        for name, work in (
            (_LINK, self._link.run()),
            ("responder", self.responder.run()),
            ("reports", self.reports.run()),
            ("stream", self.router.run()),
            ("node-log", self._node_log.run()),
            ("watch", self._watch()),
        ):
            self._begin(work, name)
        try:
            async with asyncio.timeout(self._setup.start_within.total_seconds()):
                await self._link.is_up.wait()
        except TimeoutError:
            await self.shutdown()
            raise NodeUnreachable(f"{self._setup.url} does not answer") from None
        _log.info("front_started", front=self._setup.front_id, node=self._setup.url)

    async def shutdown(self) -> None:
        """Answer no more; the node keeps its live sessions until another front ends them."""
        if self._stopping:
            return
        self._stopping = True
        # The connection last: the others may be in the middle of a question.
        tasks = sorted(self._tasks, key=lambda task: task.get_name() == _LINK)
        for task in tasks:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        _log.info("front_stopped", front=self._setup.front_id, sessions=len(self.list_own()))

    async def apply(self, revocations: Sequence[Revocation]) -> list[int]:
        """Deny from now on, and end every live session that they concern, on every node.

        Raises: NodeUnreachable, and then no receipt is due: our node's sessions may live on.
        """
        for revocation in revocations:
            self._setup.denied.add(revocation)
        client = self._link.client
        concerned = [
            (revocation.seq, place)
            for revocation in revocations
            for place in self.sessions.list_denied(revocation)
        ]
        kicks = await self._kick(client, [place for _, place in concerned], End.REVOKED)
        # Over a failed try too: what was ended then is counted once the rest is.
        for (seq, _), kick in zip(concerned, kicks, strict=True):
            self._ended[seq] = self._ended.get(seq, 0) + (kick is Kick.ENDED)
        for (_, place), kick in zip(concerned, kicks, strict=True):
            # Another node that does not answer is listed when it is back, and has its own front.
            if kick is Kick.UNANSWERED and place.server_id == self._own:
                raise NodeUnreachable("the node does not end sessions")
        return [self._ended.pop(revocation.seq, 0) for revocation in revocations]

    def end(self, place: Place, reason: End) -> None:
        """End one session of our own node soon, whether or not it answers."""
        self._begin(self._end([place], reason, self._client), "kick")

    def list_own(self) -> dict[Place, Session]:
        """Return the live sessions of our own node."""
        return self.sessions.list_at(self._own)

    def find_own(self, cid: int) -> tuple[Session, bool] | None:
        """Return who is, or lately was, our node's client `cid`, and whether it still is."""
        place = Place(self._own, cid)
        session = self.sessions.find(place)
        return (session, self.sessions.is_live(place)) if session is not None else None

    def place_of(self, cid: int) -> Place:
        """Return where our node's client `cid` is."""
        return Place(self._own, cid)

    # The node's coming and going.

    async def _arrive(self, client: Client) -> None:
        self._client, self._own = client, server_id(client)
        self._owned.append(self._own)
        await client.subscribe(EVENTS, cb=self._hear, pending_msgs_limit=_EVENTS_WAITING)
        await client.subscribe("$SYS.SERVER.*.SHUTDOWN", cb=self._hear_shutdown)
        await self.router.listen(client, DEVICE_DOWN)
        await client.flush()
        await self._list(client)
        self.is_tidy = False
        await self._tidy(client)
        await client.subscribe(SUBJECT, QUEUE, cb=self.responder.take)
        await client.flush()
        self._metrics.node_up.set(1)
        self.reports.retell(list(self.list_own().values()))

    def _leave(self) -> None:
        self.router.forget_partitions()
        self._metrics.node_up.set(0)

    async def _list(self, client: Client) -> None:
        """Make the map true, and end what is denied in it."""
        self.sessions.begin()
        try:
            found = await list_sessions(client, self._own, self._setup.trust_domain)
            # Of a server that does not answer nothing is known; it is listed when it is back.
            for server in found.keys() | self.sessions.list_servers():
                difference = self.sessions.settle(server, found.get(server, {}))
                for session in difference.appeared.values():
                    if server == self._own:
                        self.reports.connected(session)
                for place, session in difference.vanished.items():
                    self._gone(place, session, End.LOST)
        finally:
            self.sessions.end()
        await self._end(self._list_denied(), End.REVOKED, client)

    def _list_denied(self) -> list[Place]:
        denies = self._setup.denied.denies_session
        return [
            place
            for place, session in self.sessions.list_all().items()
            if denies(session.agent.agent_id, session.serial)
        ]

    async def _hear(self, message: Msg) -> None:
        try:
            told = read_event(message.subject, message.data, self._setup.trust_domain)
        except BadEvent as error:
            _log.warning("event_ignored", error=error.message)
            return
        if told is None:
            return
        place, session, end = told
        if session is None:
            ended = self.sessions.remove(place)
            if ended is not None:
                self._gone(place, ended, end)
            return
        self.sessions.add(place, session)
        self._has_met_agents = True
        # It may have been revoked after we admitted it, and before we knew of the session.
        if self._setup.denied.denies_session(session.agent.agent_id, session.serial):
            self.end(place, End.REVOKED)
        elif place.server_id == self._own:
            self._metrics.connects.labels("agent").inc()
            self.reports.connected(session)

    async def _tidy(self, client: Client) -> None:
        if self.is_tidy:
            return
        try:
            self.is_tidy = await tidy(client)
        except NodeUnreachable as error:
            _log.warning("agents_streams_not_bounded", error=error.message)

    async def _hear_shutdown(self, message: Msg) -> None:
        server = message.subject.split(".")[2]
        for place in self.sessions.list_at(server):
            ended = self.sessions.remove(place)
            if ended is not None:
                self._gone(place, ended, End.SHUTDOWN)

    def _gone(self, place: Place, session: Session, end: End) -> None:
        reason = self._reasons.pop(place, end)
        if place.server_id not in self._owned:
            return  # its own front tells
        self._denials.forget(place.cid)
        self._metrics.ended.labels(reason.name.lower()).inc()
        if not self.sessions.has_agent(session.agent.agent_id):
            self.reports.disconnected(session.agent, reason)

    # What the clock asks for.

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        listed_at = loop.time()
        while True:
            await asyncio.sleep(self._setup.limits.sweep_every.total_seconds())
            try:
                client = self._link.client
                await self._sweep(client)
                if self._has_met_agents:  # whose first one makes the streams
                    await self._tidy(client)
                if loop.time() - listed_at >= self._setup.list_every.total_seconds():
                    listed_at = loop.time()
                    await self._list(client)
                    self.is_tidy = False
                    await self._tidy(client)
            except NodeUnreachable:
                continue  # the link tells, and lists anew when it is back
            except Exception:  # nobody waits for this task; the next round tries again
                _log.exception("watch_failed")

    async def _sweep(self, client: Client) -> None:
        """End our node's sessions where a revocation may long have been missed."""
        longest_s = self._setup.limits.unconfirmed.total_seconds()
        if self._setup.denied.unconfirmed_s > longest_s:
            await self._end(list(self.list_own()), End.UNCONFIRMED, client)

    async def _end(self, places: Sequence[Place], reason: End, client: Client | None) -> None:
        """End sessions for which nobody waits; what does not answer now is listed again."""
        if client is None or not places:
            return
        kicks = await self._kick(client, places, reason)
        if (unanswered := kicks.count(Kick.UNANSWERED)) > 0:
            _log.warning("sessions_not_ended", reason=reason, sessions=unanswered)

    async def _kick(self, client: Client, places: Sequence[Place], reason: End) -> list[Kick]:
        for place in places:
            self._reasons[place] = reason
            if len(self._reasons) > _REASONS:
                self._reasons.popitem(last=False)
        return await self._kicker.kick(client, places)

    def _begin(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
