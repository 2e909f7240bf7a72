"""The embedded broker front: amqtt's broker with everything replaced that trusts its clients.

amqtt 0.12.1 gives the life cycle, the listener configuration and the codec. As it stands a CONNECT
ends the session of any client id before it is authenticated, wills skip the topic rules, retained
messages are taken, and neither packets, queues nor silence are bounded; so none of its session and
routing code runs here. It is pinned exactly because this class overrides what is private to it.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, cast

import structlog
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.errors import BrokerError
from cryptography import x509

from broker.denyset import DenySet, Revocation
from broker.embedded import packets, tls
from broker.embedded.admission import check_connect
from broker.embedded.connection import Connection
from broker.embedded.conversation import Conversation
from broker.embedded.limits import Limits
from broker.embedded.listener import Listener, Streams, listening_socket
from broker.embedded.metrics import FrontMetrics
from broker.embedded.registry import Registry
from broker.embedded.routing import Router
from broker.embedded.strangers import Strangers, network_of
from broker.errors import ConnectRefused, FrontError, PacketRefused
from broker.front import UpMessage
from broker.reports import Bounds, Operation, Reports
from broker.rights import NOT_AUTHORIZED, SERVER_UNAVAILABLE, check_standing, rights_of
from broker.session import End
from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import Holder, Peer, verify_peer

_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class FrontSetup:
    """What a front is given: `tls` and `cas` are asked at each connect, so that they may change."""

    front_id: str
    host: str
    port: int
    trust_domain: str
    tls: Callable[[], ssl.SSLContext]
    cas: Callable[[], Sequence[x509.Certificate]]
    denied: DenySet
    limits: Limits = field(default_factory=Limits)
    metrics: FrontMetrics = field(default_factory=FrontMetrics)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


class Front(Broker):  # type: ignore[misc]  # amqtt ships no type information
    """One listener for agents and hubs; start it, and shut it down."""

    newcomer: ClassVar[str] = "agent"
    """What metrics call whoever is no hub."""

    def __init__(self, setup: FrontSetup, router: Router | None = None) -> None:
        bind = f"{setup.host}:{setup.port}"
        # `plugins` empty: amqtt's defaults would let everybody in and publish to $SYS.
        super().__init__(
            BrokerConfig(listeners={"default": ListenerConfig(bind=bind, ssl=True)}, plugins={})
        )
        self._setup = setup
        self._limits = setup.limits
        self._metrics = setup.metrics
        self.registry = Registry()
        self.router = Router(setup.limits, setup.metrics) if router is None else router
        self.reports = Reports(
            setup.front_id, self.router, setup.metrics.denied, setup.clock, _bounds(setup.limits)
        )
        self.strangers = Strangers(setup.limits)
        if router is None:  # else it tells whom it belongs to
            self.router.on_hubs_changed = lambda: self.reports.retell(self.registry.list_sessions())
        self._listener: Listener | None = None
        self._stopping = False
        for role, count in ((self.newcomer, self._agents), ("hub", self._hubs)):
            setup.metrics.connections.labels(role).set_function(count)

    @property
    def address(self) -> tuple[str, int]:
        """Where the front listens, once started."""
        assert self._listener is not None, "the front has not been started"
        return self._listener.address

    async def start(self) -> None:
        """Listen. Raises: ListenFailed."""
        try:
            await super().start()
        except BrokerError as error:
            if isinstance(error.__cause__, FrontError):
                raise error.__cause__ from None
            raise
        _log.info("front_started", front=self._setup.front_id, address=self.address)

    async def shutdown(self) -> None:
        """Stop listening and end every connection; no will speaks, for nobody has failed."""
        if self._stopping:
            return
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        live = self.registry.list_all()
        for connection in sorted(live, key=lambda connection: connection.is_hub):
            connection.end(End.SHUTDOWN)
        await super().shutdown()
        _log.info("front_stopped", front=self._setup.front_id, connections=len(live))

    async def apply(self, revocations: Sequence[Revocation]) -> list[int]:
        """Deny from now on and end every live connection they concern; return how many each."""
        return [self._apply(revocation) for revocation in revocations]

    def _apply(self, revocation: Revocation) -> int:
        self._setup.denied.add(revocation)
        concerned = self.registry.list_denied(revocation)
        for connection in concerned:
            connection.end(End.REVOKED)
            if revocation.agent_id is not None:
                self.strangers.kicked(connection.network)
        return len(concerned)

    def sweep(self) -> None:
        """End what the clock ends: expired certificates, silent peers, unconfirmed agents."""
        now = self._setup.clock()
        longest_s = self._limits.unconfirmed.total_seconds()
        is_unconfirmed = self._setup.denied.unconfirmed_s > longest_s
        for connection in self.registry.list_all():
            reason = connection.overdue(now)
            if reason is None and is_unconfirmed and not connection.is_hub:
                reason = End.UNCONFIRMED
            if reason is not None:
                connection.end(reason)

    # What amqtt calls.

    @staticmethod
    def _create_ssl_context(listener: Any) -> None:
        """Leave TLS to the listener: its context changes when the certificate is renewed."""

    async def _create_server_instance(
        self, _name: str, _type: Any, _address: Any, _port: Any, _ssl: Any
    ) -> Listener:
        setup = self._setup
        sock = listening_socket(setup.host, setup.port)
        self._listener = listener = Listener(
            sock, setup.tls, self._serve, self._handshake_failed, self.strangers, self._limits
        )
        self._metrics.pending.set_function(lambda: listener.pending)
        self._metrics.held.set_function(lambda: listener.holding.held)
        self._metrics.not_tried.set_function(lambda: listener.holding.total)
        return listener

    async def _session_monitor(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep_every.total_seconds())
            try:
                self.sweep()
            except Exception:  # amqtt does not look after this task; the next sweep tries again
                _log.exception("sweep_failed")

    async def _broadcast_loop(self) -> None:
        reporting = asyncio.ensure_future(self.reports.run())
        try:
            await self._broadcast_shutdown_waiter
        finally:
            reporting.cancel()

    # One connection.

    async def _serve(self, streams: Streams) -> None:
        listener = cast("Listener", self._listener)
        try:
            async with asyncio.timeout(self._limits.connect_timeout.total_seconds()):
                connection = await self._admit(streams)
        except ConnectRefused as refusal:
            if refusal.return_code != SERVER_UNAVAILABLE:
                self.strangers.refused(_network_of(streams))
            await self._refuse(streams, refusal)
            return
        except (PacketRefused, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            reason = error.code if isinstance(error, PacketRefused) else "no-connect"
            self._metrics.handshakes_failed.labels(reason).inc()
            self.strangers.refused(_network_of(streams))
            return
        finally:
            listener.settle()
        conversation = Conversation(
            connection, self.router, self.reports, self._metrics, self._limits, self._relay
        )
        try:
            await conversation.run()
        finally:
            # However it ended, nothing of it stays in the registry.
            connection.end(End.LOST)

    async def _admit(self, streams: Streams) -> Connection:
        """Establish who it is before anything of any session is touched."""
        reader, writer = streams
        peer: Peer | None = None
        try:
            peer = self._verify(writer)
            rights = rights_of(peer.identity)
            connect = packets.decode_connect(
                await packets.read_packet(reader, self._limits.control_bytes)
            )
            will = check_connect(connect, peer, rights, self._limits)
            check_standing(peer, self._setup.denied)
            self._check_room(peer.identity, connect.client_id, is_hub=rights.is_hub)
        except ConnectRefused as refusal:
            operation = cast("Operation", refusal.operation)
            self.reports.denied(operation, refusal.message, peer.identity if peer else None)
            raise
        connection = Connection(
            connect.client_id, peer, rights, will, connect.keep_alive_s, streams, self._limits
        )
        self._register(connection)
        return connection

    def _verify(self, writer: asyncio.StreamWriter) -> Peer:
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        try:
            return self._believe(leaf or b"")
        except PkiError as error:
            raise ConnectRefused(error.code, return_code=NOT_AUTHORIZED) from error

    def _believe(self, leaf: bytes) -> Peer:
        """Say who shows this certificate, whose chain OpenSSL has verified. Raises: PkiError."""
        setup = self._setup
        return verify_peer(leaf, setup.cas(), setup.trust_domain, setup.clock())

    def _relay(self, _connection: Connection, message: packets.Publish) -> UpMessage:
        """Return what a hub is to receive of a message that its sender may publish."""
        return UpMessage(message.topic, message.payload, message.qos)

    def _check_room(self, identity: Holder, client_id: str, *, is_hub: bool) -> None:
        if self._stopping:
            raise ConnectRefused("front-stops", return_code=SERVER_UNAVAILABLE)
        is_full = self.registry.agents >= self._limits.connections
        if is_full and not is_hub and not self.registry.has_client(client_id):
            raise ConnectRefused("front-is-full", return_code=SERVER_UNAVAILABLE)

    def _register(self, connection: Connection) -> None:
        """Take over from older connections of the same client id, and answer.

        Nothing waits between the look at the deny set and here, so that a revocation either was
        seen there or finds this connection in the registry.
        """
        connection.on_end = self._ended
        connection.admitted_at = self._setup.clock()
        older = self.registry.add(connection)
        for taken in older:
            taken.end(End.TAKEN_OVER)
        role = "hub" if connection.is_hub else self.newcomer
        self._metrics.connects.labels(role).inc()
        self.strangers.admitted(connection.network)
        if connection.send(packets.connack(0)) and connection.session is not None:
            self.reports.connected(connection.session)

    async def _refuse(self, streams: Streams, refusal: ConnectRefused) -> None:
        """Say why, and wait a moment for the peer to read it."""
        writer = streams[1]
        try:
            async with asyncio.timeout(self._limits.close_timeout.total_seconds()):
                writer.write(packets.connack(refusal.return_code))
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError):
            _log.debug("refused_peer_did_not_close", reason=refusal.message)

    def _ended(self, connection: Connection, reason: End) -> None:
        was_last = self.registry.remove(connection)
        self.router.drop(connection)
        self._metrics.ended.labels(reason.name.lower()).inc()
        will = connection.find_speaking_will()
        if will is not None:
            message = UpMessage(will.topic, will.payload, will.qos)
            self.router.offer_up(connection.client_id, message)
        if was_last and not self._stopping and connection.agent is not None:
            self.reports.disconnected(connection.agent, reason)

    def _handshake_failed(self, error: Exception, network: bytes) -> None:
        reason = tls.failure_reason(error)
        self._metrics.handshakes_failed.labels(reason).inc()
        if reason in tls.REFUSED:
            self.strangers.refused(network)
        if reason in tls.SUSPICIOUS:
            self.reports.denied("connect", reason)

    def _agents(self) -> int:
        return self.registry.agents

    def _hubs(self) -> int:
        return self.registry.hubs


def _bounds(limits: Limits) -> Bounds:
    return Bounds(limits.report_every, limits.denied_keys, limits.connections)


def _network_of(streams: Streams) -> bytes:
    return network_of(streams[1].get_extra_info("peername"))
