"""The agent as a machine: inputs with the time in, effects and the next deadline out."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from agent.core import checkpoints, commands, heartbeats
from agent.core.backoff import CONNECT, REFUSED_ATTEMPT, Uniform
from agent.core.belief import Accept, Belief
from agent.core.certificates import Certificates
from agent.core.clock import Moment, agent_time
from agent.core.desired import DesiredMachine, Step
from agent.core.effects import Connect, Disconnect, Effect, Publish, SampleTelemetry
from agent.core.outbox import Outbox
from agent.core.package_inputs import PackageInputs
from agent.core.recovery import CertificateRecovery
from agent.core.renewal import CertificateRenewal
from agent.core.sending import EventSender
from agent.core.settings import Certified, CoreSettings, Credentials, Telemetry
from agent.core.state import AgentState
from agent.core.turn import Turn
from tensorguard.pki.bundle import TrustStore, accept_next
from tensorguard.protocol import codec, topics
from tensorguard.protocol.messages import (
    CertificateIssued,
    Command,
    Desired,
    EventType,
    FleetConfig,
    Grant,
    Will,
)
from tensorguard.protocol.topics import DownKind, UpKind

MAX_DOWN_BYTES = 64 * 1024
STABLE_AFTER_S = 60.0  # a connection that held this long starts the back-off anew
HEARTBEAT_JITTER = 0.1
CATCH_UP_JITTER_S = 2.0


class AgentCore(PackageInputs):
    """One agent without I/O: every method takes the time and returns what has to be done.

    The effects of a call must be done in their order, before the next call. `deadline_s` says, in
    monotonic seconds, when `tick` has to be called at the latest.
    """

    __slots__ = (
        "_attempt",
        "_belief",
        "_boot_id",
        "_connect_s",
        "_connected_s",
        "_desired",
        "_heartbeat_s",
        "_kid",
        "_new_id",
        "_recovery",
        "_renewal",
        "_seen_s",
        "_sender",
        "_seq",
        "_settings",
        "_uniform",
        "certificates",
        "degraded",
        "online",
        "outbox",
        "state",
    )

    def __init__(
        self,
        settings: CoreSettings,
        credentials: Credentials,
        state: AgentState,
        outbox: Outbox,
        trust: TrustStore,
        *,
        uniform: Uniform,
        new_id: Callable[[], UUID] = uuid4,
        accept: Accept = accept_next,
    ) -> None:
        self._settings = settings
        self.certificates = Certificates(credentials)
        self._kid = credentials.encryption_kid
        self._uniform = uniform
        self._new_id = new_id
        self.state = state
        self.outbox = outbox
        self.online = False
        self.degraded = False
        self._belief = Belief(trust, accept)
        self._desired = DesiredMachine()
        self._renewal = CertificateRenewal(self.certificates.newest, uniform())
        self._recovery = CertificateRecovery(self.certificates, self._renewal)
        self._boot_id = new_id()
        self._seen_s: float | None = None
        self._seq = 0
        self._attempt = 0
        self._connect_s: float | None = None
        self._connected_s = 0.0
        self._heartbeat_s: float | None = None
        self._sender = EventSender(settings.events_per_minute, settings.event_burst)
        state.time_floor = max(state.time_floor, settings.build_time, credentials.not_before)

    @property
    def trust(self) -> TrustStore:
        """The trust bundle believed now."""
        return self._belief.store

    @property
    def step(self) -> Step:
        """What the desired document makes the agent do at the moment."""
        return self._desired.step

    @property
    def client_id(self) -> str:
        """The MQTT client id: the agent id."""
        return str(self.certificates.identity.agent_id)

    @property
    def filters(self) -> tuple[str, str]:
        """What to subscribe to, at QoS 0."""
        identity = self.certificates.identity
        return topics.subscribable(identity.fleet, identity.agent_id)

    @property
    def will(self) -> Publish:
        """The last will, to be left with the broker at CONNECT."""
        identity = self.certificates.identity
        topic = topics.will_topic(identity.fleet, identity.agent_id)
        return Publish(topic, codec.encode(Will(boot_id=self._boot_id)))

    def deadline_s(self, moment: Moment) -> float:
        """When `tick` must be called at the latest, in monotonic seconds."""
        now = agent_time(moment.system, self.state.time_floor)
        due = min(self._belief.due_s, self._renewal.due_s(now, moment.monotonic_s))
        others = (
            self._connect_s,
            self._heartbeat_s,
            self._sender.due_s,
            self._desired.due_s,
            self._recovery.due_s,
        )
        for other in others:
            if other is not None and other < due:
                due = other
        return due

    # Inputs

    def start(self, moment: Moment, details: dict[str, Any] | None = None) -> list[Effect]:
        """Begin a boot: counted, recorded, unfinished work taken up, connection asked for."""
        turn = self._turn(moment)
        self.state.boot_count += 1
        turn.persist()
        boot: dict[str, Any] = {
            "boot_count": self.state.boot_count,
            "agent_version": self._settings.agent_version,
        }
        turn.record("started", boot | (details or {}))
        self._belief.start(turn)
        self._renewal.believes(turn, self._belief.store)
        self._desired.resume(turn)
        turn.do(Connect(self.certificates.choose()))
        return self._finish(turn)

    def connected(self, moment: Moment) -> list[Effect]:
        """The session is up and subscribed: heartbeat at once, then whatever is not acked."""
        turn = self._turn(moment)
        self.online = turn.online = True
        self._connect_s = None
        self._connected_s = moment.monotonic_s
        self.certificates.connected(turn)
        turn.do(SampleTelemetry())
        commands.connected(turn)
        self._desired.connected(turn)
        self._renewal.connected(turn, retry_next=self.certificates.waits)
        self._recovery.connected()
        self._sender.connected(turn)
        return self._finish(turn)

    def disconnected(
        self,
        moment: Moment,
        *,
        renewed: bool = False,
        refused: bool = False,
        disbelieved: bool = False,
    ) -> list[Effect]:
        """There is no session (any more), or it could not be had: wait, then connect.

        After our own change of certificate nothing was refused, so nothing is waited for. `refused`
        means "not authorized" (CONNACK 5): that will hardly be otherwise within minutes.
        `disbelieved`: the server's certificate is of no CA in our trust bundle, which may be old.
        """
        turn = self._turn(moment)
        if self.online and moment.monotonic_s - self._connected_s >= STABLE_AFTER_S:
            self._attempt = 0
        self.online = turn.online = False
        self._heartbeat_s = None
        self._sender.disconnected()
        if renewed:
            self.certificates.prefer_next()
            turn.do(Connect(self.certificates.choose()))
        else:
            if refused:
                self._attempt = max(self._attempt, REFUSED_ATTEMPT)
            self._connect_s = moment.monotonic_s + CONNECT.delay_s(self._attempt, self._uniform)
            self._attempt += 1
        if disbelieved:
            self._belief.hurry(turn)
        return self._finish(turn)

    def tick(self, moment: Moment) -> list[Effect]:
        """Do what is due; may be called at any time."""
        turn = self._turn(moment)
        now_s = moment.monotonic_s
        if self._connect_s is not None and now_s >= self._connect_s:
            self._connect_s = None
            turn.do(Connect(self.certificates.choose()))
        if self._heartbeat_s is not None and now_s >= self._heartbeat_s:
            self._schedule_heartbeat(now_s)
            turn.do(SampleTelemetry())
        self._sender.tick(turn)
        self._desired.tick(turn)
        self._renewal.tick(turn)
        self._recovery.tick(turn, refusals=self._attempt)
        self._belief.tick(turn)
        return self._finish(turn)

    def heartbeat(self, moment: Moment, sample: Telemetry) -> list[Effect]:
        """Here is the measurement that SampleTelemetry asked for."""
        turn = self._turn(moment)
        if not self.online:
            return []
        message = heartbeats.build(
            self.state,
            sample,
            running=self._desired.runs(self.state),
            boot_id=self._boot_id,
            seq=self._seq,
            sent_at=moment.system,
            agent_version=self._settings.agent_version,
            desired=self._desired.has(self.state),
            trust_version=self._belief.store.version,
            degraded=self.degraded,
        )
        turn.publish(UpKind.HEARTBEAT, message)
        self._seq += 1
        self._schedule_heartbeat(moment.monotonic_s)
        return self._finish(turn)

    def message(self, moment: Moment, topic: str, payload: bytes) -> list[Effect]:
        """Something came down; what is not for this agent or not believed changes nothing."""
        turn = self._turn(moment)
        own, everyone = (one[:-1] for one in self.filters)
        kind = topic.removeprefix(own) if topic.startswith(own) else ""
        fleet_kind = topic.removeprefix(everyone) if topic.startswith(everyone) else ""
        if len(payload) > MAX_DOWN_BYTES:
            return []
        if kind == DownKind.ACK:
            ack = self._sender.acked(turn, payload)
            if ack is not None and heartbeats.count_on(turn, self._boot_id, ack.boot):
                turn.do(SampleTelemetry())
        elif kind == DownKind.DESIRED:
            desired = self._belief.open(turn, Desired, payload)
            if desired is not None and self._desired.accept(turn, desired):
                # Its package may be by a publisher who is newer than our trust bundle.
                self._belief.hurry(turn)
        elif kind == DownKind.GRANT:
            if grant := self._belief.open(turn, Grant, payload):
                self._desired.granted(turn, grant, self._kid)
        elif kind == DownKind.CERTIFICATE:
            if answer := self._belief.open(turn, CertificateIssued, payload):
                self._renewal.answered(turn, answer)
        elif kind == DownKind.COMMAND:
            if command := self._belief.open(turn, Command, payload):
                fleet = commands.run(turn, command)
                if fleet is not None and fleet != self.certificates.identity.fleet:
                    self._renewal.move(turn, fleet)
        elif DownKind.CONFIG in (kind, fleet_kind):
            config = self._belief.open(turn, FleetConfig, payload)
            if config is not None and heartbeats.configure(turn, config) and self.online:
                self._schedule_heartbeat(turn.mono_s)
        elif DownKind.CHECKPOINT in (kind, fleet_kind):
            checkpoints.see(turn, self._belief, payload)
        elif DownKind.TRUST_VERSION in (kind, fleet_kind):
            self._belief.told(turn, payload)
        return self._finish(turn)

    def trust_fetched(self, moment: Moment, envelope: bytes | None) -> list[Effect]:
        """The next trust bundle, or None where there is none or nobody answered."""
        turn = self._turn(moment)
        if self._belief.fetched(turn, envelope) and self._connect_s is not None:
            # What kept us out may have been that we knew too little: no need to wait any longer.
            self._connect_s = min(
                self._connect_s, turn.mono_s + CATCH_UP_JITTER_S * self._uniform()
            )
        return self._finish(turn)

    def trust_kept(self, moment: Moment) -> list[Effect]:
        """The trust bundle of KeepTrust is on the disk."""
        turn = self._turn(moment)
        if self._belief.kept(turn):
            self._renewal.believes(turn, self._belief.store)
        return self._finish(turn)

    def csr_made(self, moment: Moment, request_id: UUID, csr: str) -> list[Effect]:
        """The signing request that MakeKey asked for."""
        turn = self._turn(moment)
        self._renewal.csr_made(turn, request_id, csr)
        self._recovery.key_made(turn)
        return self._finish(turn)

    def certificate_installed(self, moment: Moment, certified: Certified) -> list[Effect]:
        """The next connection will try the new certificate."""
        turn = self._turn(moment)
        self.certificates.take(certified)
        self._renewal.installed(turn, certified)
        self._renewal.believes(turn, self._belief.store)
        if self._connect_s is not None:
            self._connect_s = moment.monotonic_s
        return self._finish(turn)

    def recovery_answered(
        self, moment: Moment, request_id: UUID, certificate: str | None, *, refused: bool = False
    ) -> list[Effect]:
        """What AskRecovery has brought: a certificate, no answer yet, or a refusal."""
        turn = self._turn(moment)
        self._recovery.answered(turn, request_id, certificate, refused=refused)
        return self._finish(turn)

    def certificate_refused(self, moment: Moment) -> list[Effect]:
        """The certificate that came is not for our key, or not from our platform's CA."""
        turn = self._turn(moment)
        self._renewal.refused(turn)
        return self._finish(turn)

    def diagnosed(self, moment: Moment, command_id: UUID, result: dict[str, Any]) -> list[Effect]:
        """What Diagnose or CollectLogs asked for."""
        turn = self._turn(moment)
        commands.diagnosed(turn, command_id, result)
        return self._finish(turn)

    def record(self, moment: Moment, type_: EventType, details: dict[str, Any]) -> list[Effect]:
        """Something happened on the device that the platform has to know."""
        turn = self._turn(moment)
        turn.record(type_, details)
        return self._finish(turn)

    def stop(self, moment: Moment) -> list[Effect]:
        """Say goodbye: recorded, and the session ended without the will."""
        turn = self._turn(moment)
        turn.record("stopped", {"boot_count": self.state.boot_count})
        effects = self._finish(turn)
        effects.append(Disconnect("stopped"))
        return effects

    def _turn(self, moment: Moment) -> Turn:
        if moment.system < self.state.time_floor and self._seen_s is not None:
            # A clock that is known to be behind still tells how much later it must be by now.
            self.state.time_floor += timedelta(seconds=max(0.0, moment.monotonic_s - self._seen_s))
        self._seen_s = moment.monotonic_s
        return Turn(
            moment,
            identity=self.certificates.identity,
            state=self.state,
            outbox=self.outbox,
            online=self.online,
            uniform=self._uniform,
            new_id=self._new_id,
        )

    def _finish(self, turn: Turn) -> list[Effect]:
        self._sender.send(turn)
        self._recovery.plan(turn, refusals=self._attempt)
        return turn.finish()

    def _schedule_heartbeat(self, now_s: float) -> None:
        jitter = 1.0 + HEARTBEAT_JITTER * (2.0 * self._uniform() - 1.0)
        interval_s = self._settings.heartbeat_interval_s or self.state.heartbeat_interval_s
        self._heartbeat_s = now_s + interval_s * jitter
