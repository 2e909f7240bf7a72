"""One simulated agent: the reference agent's core, a lean link, and made-up telemetry."""

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from random import Random
from uuid import UUID, uuid4

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from agent.core import effects as fx
from agent.core.agent import AgentCore
from agent.core.clock import Moment
from agent.core.outbox import Outbox
from agent.core.settings import Credentials, Telemetry
from agent.core.state import AgentState
from agent.runtime import keys
from agent.runtime.renew import certified
from simulators.behaviour import regress
from simulators.errors import LinkFailed
from simulators.identities import HeldEvents, Home
from simulators.link import Link, open_link
from simulators.misbehaving import Misbehaving
from simulators.packages import Input
from simulators.world import World
from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import (
    AgentIdentity,
    authority_key_id,
    identity_from_certificate,
    verify_peer,
)
from tensorguard.pki.issuer import certificate_pem
from tensorguard.pki.keys import kid_of
from tensorguard.protocol import codec
from tensorguard.protocol.messages import EventType

PING_AFTER_S = 45.0
SILENT_AFTER_S = 100.0
_TERMINAL = ("succeeded", "failed", "rejected")


class SimulatedAgent(Misbehaving):
    """Feeds its core with what comes over the link, and does what the core asks for."""

    __slots__ = (
        "_at_s",
        "_base",
        "_highest",
        "_link",
        "_pem",
        "_pending_key",
        "_stage",
        "_timer",
        "_times",
    )

    def __init__(
        self, world: World, home: Home, state: AgentState, held: HeldEvents | None
    ) -> None:
        self._world = world
        self.home = home
        self._link: Link | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._at_s = 0.0
        self._highest = 0
        self._pem = world.store.pem(home.agent_id)
        self._away_until_s = 0.0
        self._crashed = set()
        self._cut = ""
        self._pending_key: ec.EllipticCurvePrivateKey | None = None
        rolls = Random(f"{world.seed}:{home.number}")  # noqa: S311  # telemetry, not secrets
        self._base = (rolls.uniform(5, 60), rolls.uniform(20, 80), rolls.uniform(10, 90))
        if held is None:
            outbox = Outbox(uuid4())
        else:
            outbox = Outbox(held.log_id, held.events, issued=held.issued)
        now_s = world.loop.time()
        self._times = deque((number, now_s) for number, _ in (held.events if held else ()))
        world.statistics.published += len(self._times)
        self._stage = state.stage
        self.core = self._new_core(state, outbox)

    def start(self) -> None:
        """Boot."""
        self._feed(self.core.start(self._world.moment(), {"simulated": True}))

    def record(self, type_: EventType, details: dict[str, int | str]) -> None:
        """Something happened on this device."""
        self._feed(self.core.record(self._world.moment(), type_, details))

    def keep_alive(self, now_s: float) -> None:
        """Ping a quiet broker; give up a silent one."""
        link = self._link
        if link is None:
            return
        if now_s - link.heard_s > SILENT_AFTER_S:
            link.close(politely=False)
            self.on_closed("the broker is silent")
        elif min(now_s - link.said_s, now_s - link.heard_s) > PING_AFTER_S:
            link.ping()

    def close(self) -> None:
        """End the session and every timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._link is not None:
            self._link.close()
            self._link = None
            self._world.statistics.online -= 1

    def held(self) -> HeldEvents:
        """The outbox, for the next run."""
        outbox = self.core.outbox
        return HeldEvents(log_id=outbox.log_id, issued=outbox.issued, events=outbox.held())

    async def connect(self) -> None:
        """Open the link, once; called when it is this agent's turn."""
        world, core = self._world, self.core
        if world.stopping and not len(core.outbox):
            return
        begun_s = world.loop.time()
        if self._is_away():
            return
        try:
            link = await open_link(
                world.endpoint(self.home, core.trust),
                self._pem,
                self,
                client_id=core.client_id,
                filters=core.filters,
                will=core.will,
            )
        except LinkFailed as error:
            world.statistics.refused += 1
            world.statistics.reasons[error.message] += 1
            moment = world.moment()
            refused, disbelieved = error.refused, error.disbelieved
            self._feed(core.disconnected(moment, refused=refused, disbelieved=disbelieved))
            return
        self._link = link
        world.statistics.connects += 1
        world.statistics.online += 1
        world.statistics.connect_latency.add(world.loop.time() - begun_s)
        self._feed(core.connected(world.moment()))

    def on_message(self, topic: str, payload: bytes) -> None:
        """The link has received something."""
        self._world.statistics.messages_down += 1
        effects = self.core.message(self._world.moment(), topic, payload)
        if topic.endswith("/ack"):
            for effect in effects:
                if isinstance(effect, fx.DropEvents):
                    self._count_acked(effect)
        self._feed(effects)

    def on_closed(self, reason: str, *, renewed: bool = False) -> None:
        """The link has ended."""
        self._link = None
        self._world.statistics.online -= 1
        self._world.statistics.disconnects += 1
        self._world.statistics.reasons[reason] += 1
        self._feed(self.core.disconnected(self._world.moment(), renewed=renewed))

    def _new_core(self, state: AgentState, outbox: Outbox) -> AgentCore:
        world, home = self._world, self.home
        leaf = x509.load_pem_x509_certificate(world.store.pem(home.agent_id).read_bytes())
        public = X25519PrivateKey.from_private_bytes(home.encryption_key).public_key()
        identity = identity_from_certificate(leaf)
        assert isinstance(identity, AgentIdentity)
        return AgentCore(
            world.settings,
            Credentials(
                identity,
                leaf.not_valid_before_utc,
                leaf.not_valid_after_utc,
                kid_of(public.public_bytes_raw()),
                issuer=authority_key_id(leaf),
            ),
            state,
            outbox,
            world.trust,
            uniform=world.random.random,
            accept=world.accept,
        )

    def _feed(self, effects: Sequence[fx.Effect]) -> None:
        for effect in effects:
            self._do(effect)
        self._count_stage()
        self._arm()

    def _do(self, effect: fx.Effect) -> None:
        world, core = self._world, self.core
        match effect:
            case fx.Publish():
                self._publish(effect)
            case fx.SampleTelemetry():
                for more in core.heartbeat(world.moment(), self._sample()):
                    self._do(more)
            case fx.KeepEvent(number):
                world.statistics.published += 1
                self._times.append((number, world.loop.time()))
            case fx.DropEvents(through):
                # Those that were acked have been counted already: what is left was overflowing.
                world.statistics.overflowed += len(self._take_times(through))
            case fx.NewLog():
                held_times = [at_s for _, at_s in self._times]
                self._times = deque(enumerate(held_times, start=1))
                self._highest = 0
            case fx.Persist():
                world.dirty.add(self.home.number)
            case fx.Connect(certificate):
                self._pem = world.store.pem(self.home.agent_id, next=certificate == "next")
                world.waiting.put_nowait(self)
            case fx.Disconnect(reason):
                if self._link is not None:
                    self._link.close()
                    self.on_closed(reason, renewed=reason == "renewed")
            case fx.Download() | fx.Verify() | fx.Open() | fx.Activate():
                self._step(effect)
            case fx.FetchTrust(version):
                world.work.submit_trust(self.home, core, version, self._answer)
            case fx.KeepTrust(envelope):
                # All agents share the file; what one of them believes next is one version on.
                world.store.keep_trust(core.trust.version + 1, envelope)
                for more in core.trust_kept(world.moment()):
                    self._do(more)
            case fx.MakeKey(request_id):
                self._pending_key = ec.generate_private_key(ec.SECP256R1())
                csr = keys.make_csr(self._pending_key)
                world.loop.call_soon(self._input, partial(_csr_made, core, request_id, csr))
            case fx.InstallCertificate():
                world.loop.call_soon(self._install, effect)
            case fx.PromoteCertificate():
                world.store.promote_pem(self.home.agent_id)
            case fx.AskRecovery():
                pass  # a simulation does not last as long as a certificate
            case fx.Diagnose(command_id):
                facts: dict[str, str | int] = {"simulated": "yes", "number": self.home.number}
                world.loop.call_soon(
                    self._input, lambda moment: core.diagnosed(moment, command_id, facts)
                )
            case fx.CollectLogs(command_id):
                lines = {"lines": ["simulated"]}
                world.loop.call_soon(
                    self._input, lambda moment: core.diagnosed(moment, command_id, lines)
                )
            case fx.Restart():
                world.loop.call_soon(self._reboot)
            case fx.CancelJob():
                pass  # what it still finds out is ignored by its job number

    def _drop(self, reason: str) -> None:
        if self._link is not None:
            self._link.close(politely=False)
            self.on_closed(reason)

    def _answer(self, item: Input) -> None:
        """Take an answer from another thread."""
        if not self._world.loop.is_closed():
            self._world.loop.call_soon_threadsafe(self._input, item)

    def _input(self, item: Input) -> None:
        self._feed(item(self._world.moment()))

    def _publish(self, effect: fx.Publish) -> None:
        statistics = self._world.statistics
        if self._link is None or not self._link.publish(effect):
            statistics.link_dropped += 1
            return
        if effect.topic.endswith("/heartbeat"):
            statistics.heartbeats += 1
        elif effect.topic.endswith("/event"):
            header = codec.find_event_header(effect.payload)
            assert header is not None
            if header.number > self._highest:
                self._highest = header.number
            else:
                statistics.repeated += 1

    def _sample(self) -> Telemetry:
        roll = self._world.random.random
        cpu, memory, disk = self._base
        running = self.core.state.running
        sample = Telemetry(
            cpu_percent=round(cpu + 30.0 * roll(), 1),
            memory_percent=round(memory + 10.0 * roll(), 1),
            disk_percent=round(disk + roll(), 1),
            temperature_c=round(35.0 + 0.4 * cpu + 5.0 * roll(), 1),
        )
        return regress(self._world.behaviour, sample, running.version if running else None)

    def _count_acked(self, effect: fx.DropEvents) -> None:
        world, log_id = self._world, self.core.outbox.log_id
        rejected = set(effect.numbers)
        gone = self._take_times(effect.through)
        late = [pair for pair in self._times if pair[0] in rejected]
        if late:
            self._times = deque(pair for pair in self._times if pair[0] not in rejected)
        acked = [(number, at_s) for number, at_s in gone if number not in rejected]
        world.statistics.rejected += len(gone) - len(acked) + len(late)
        world.statistics.acked += len(acked)
        world.acks.set()
        now_s = world.loop.time()
        for _, at_s in acked:
            world.statistics.ack_latency.add(now_s - at_s)
        if world.acked_log is not None and acked:
            world.acked_log.write(self.home.agent_id, log_id, [number for number, _ in acked])

    def _take_times(self, through: int) -> list[tuple[int, float]]:
        taken = []
        while self._times and self._times[0][0] <= through:
            taken.append(self._times.popleft())
        return taken

    def _count_stage(self) -> None:
        stage = self.core.state.stage
        if stage is self._stage or stage == self._stage:
            return
        self._stage = stage
        if stage in _TERMINAL:
            self._world.statistics.stages[stage] += 1
            if stage == "succeeded":
                self._ran_first()
            if self.core.state.reason and stage != "succeeded":
                self._world.statistics.reasons[self.core.state.reason[:120]] += 1

    def _install(self, effect: fx.InstallCertificate) -> None:
        world, core, key = self._world, self.core, self._pending_key
        trust = core.trust
        try:
            leaf = x509.load_pem_x509_certificate(effect.certificate.encode())
            now = max(world.moment().system, leaf.not_valid_before_utc)
            der = leaf.public_bytes(Encoding.DER)
            peer = verify_peer(der, trust.cas, trust.trust_domain, now)
            key = key if peer.identity == effect.identity else None
        except (PkiError, ValueError):
            key = None
        if key is None or leaf.public_key() != key.public_key():
            self._input(core.certificate_refused)
            return
        new = keys.private_pem(key) + certificate_pem(leaf).encode()
        world.store.write_pem(self.home.agent_id, new, next=True)
        self._pending_key = None
        self._input(
            lambda moment: core.certificate_installed(
                moment,
                certified(leaf, effect.identity),
            )
        )

    def _reboot(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
            self._world.statistics.online -= 1
            self._world.statistics.disconnects += 1
        self._highest = 0
        self.core = self._new_core(self.core.state, self.core.outbox)
        self.start()

    def _arm(self) -> None:
        """Have `_wake` called at the core's deadline; an earlier call does no harm."""
        loop = self._world.loop
        due_s = self.core.deadline_s(self._world.moment())
        if self._timer is not None:
            if self._at_s <= due_s:
                return
            self._timer.cancel()
        self._at_s = due_s
        self._timer = loop.call_at(due_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        moment = self._world.moment()
        if self.core.deadline_s(moment) <= moment.monotonic_s:
            self._feed(self.core.tick(moment))
        else:
            self._arm()


def _csr_made(core: AgentCore, request_id: UUID, csr: str, moment: Moment) -> list[fx.Effect]:
    return core.csr_made(moment, request_id, csr)
