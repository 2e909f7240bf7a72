"""`tensorguard agent run`: feeds the core with what happens, and does what it asks for."""

import os
import platform
import queue
import random
import signal
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from cryptography import x509

from agent.core import effects as fx
from agent.core.agent import AgentCore
from agent.core.clock import Moment
from agent.core.settings import CoreSettings, Credentials
from agent.errors import NotEnrolled, StateDamaged, StateNotWritable
from agent.runtime import keys, renew
from agent.runtime.connection import Broker, Connection, Ended, Handlers
from agent.runtime.health import HealthCheck
from agent.runtime.https import verified_context
from agent.runtime.logs import LogRing
from agent.runtime.memory import find_memory
from agent.runtime.outbox_file import OutboxFile
from agent.runtime.packages import PackageStore
from agent.runtime.statedir import AGENT_PEM, NEXT_PEM, OUTBOX, TRUST, StateDir
from agent.runtime.telemetry import DeviceTelemetry
from agent.runtime.worker import Device, Input, Worker
from agent.version import AGENT_VERSION, BUILD_TIME
from tensorguard.pki.bundle import TrustStore
from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import (
    AgentIdentity,
    authority_key_id,
    identity_from_certificate,
)
from tensorguard.pki.keys import kid_of
from tensorguard.protocol.errors import ProtocolError

MAX_WAITING = 2_000
STOP_WITHIN_S = 3.0

log = structlog.get_logger()


def now() -> Moment:
    """Read both clocks."""
    return Moment(datetime.now(UTC), time.monotonic())


class AgentService:
    """The agent of one state directory; `run` returns when it was told to stop."""

    def __init__(
        self,
        directory: StateDir,
        clock: Callable[[], Moment] = now,
        *,
        health: HealthCheck | None = None,
        logs: LogRing | None = None,
    ) -> None:
        """Read everything back; `health` judges what was activated, `logs` go to who asks for them.

        Raises: NotEnrolled, StateDamaged, StateNotWritable.
        """
        if not directory.is_enrolled:
            raise NotEnrolled(f"no agent is enrolled in {directory.path}")
        self._directory = directory
        self._clock = clock
        self._logs = logs
        self._home = directory.get_home()
        self._inputs: queue.Queue[Input] = queue.Queue(MAX_WAITING)
        self._outbox = OutboxFile(directory.path / OUTBOX)
        self._telemetry = DeviceTelemetry(directory.path)
        self._connection: Connection | None = None
        self._renewed = False
        self._stopping = threading.Event()
        self.restart = False
        credentials = read_credentials(directory)
        self.core = AgentCore(
            CoreSettings(agent_version=AGENT_VERSION, build_time=BUILD_TIME),
            credentials,
            directory.get_state(),
            self._outbox.load(),
            read_trust(directory),
            uniform=random.SystemRandom().random,
        )
        packages = PackageStore(directory.path, find_memory(directory.path))
        packages.prepare()
        self._packages = packages
        device = Device(
            device_url=self._home.device_url,
            encryption_key=keys.get_or_make_encryption_key(directory),
            packages=packages,
            directory=directory,
            now=clock,
            health=health,
        )
        self._worker = Worker(device, self.core, self._post)

    def run(self) -> None:
        """Run until `stop`, a signal, or a restart command; the caller holds the lock."""
        log.info(
            "agent_started",
            agent_id=str(self.core.certificates.identity.agent_id),
            fleet=self.core.certificates.identity.fleet,
            version=AGENT_VERSION,
        )
        try:
            self._perform(self.core.start(self._clock()))
            while not self._stopping.is_set():
                self._step()
            self._say_goodbye()
        finally:
            self._worker.close()
            self._packages.close()
            self._outbox.close()
            log.info("agent_stopped", held=len(self.core.outbox))

    def stop(self) -> None:
        """Have `run` return soon; may be called from any thread."""
        self._stopping.set()
        self._wake()

    def stop_on_signals(self) -> None:
        """Stop on SIGTERM and SIGINT; to be called from the main thread, before `run`.

        A thread waits for them, because a handler could interrupt the queue while it is locked.
        """
        signals = (signal.SIGTERM, signal.SIGINT)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)

        def wait() -> None:
            signal.sigwait(signals)
            self.stop()

        threading.Thread(target=wait, name="signals", daemon=True).start()

    def _step(self) -> None:
        moment = self._clock()
        wait_s = self.core.deadline_s(moment) - moment.monotonic_s
        if wait_s <= 0:
            # What is due and what comes in take turns, so that neither starves the other.
            self._perform(self.core.tick(moment))
        try:
            item = self._inputs.get(timeout=min(max(wait_s, 0.001), 60.0))
        except queue.Empty:
            return
        self._perform(item(self._clock()))

    def _post(self, item: Input) -> None:
        """Queue an answer; a worker waits while there is no room."""
        while not self._stopping.is_set():
            try:
                self._inputs.put(item, timeout=1.0)
                return
            except queue.Full:
                continue

    def _offer(self, item: Input) -> None:
        """Queue a message; without room it is dropped, as nothing sent down has to arrive."""
        try:
            self._inputs.put_nowait(item)
        except queue.Full:
            log.warning("message_dropped", reason="the agent is busy")

    def _wake(self) -> None:
        self._offer(lambda moment: [])

    def _perform(self, todo: list[fx.Effect]) -> None:
        lost_from: int | None = None
        for effect in todo:
            if isinstance(effect, fx.KeepEvent):
                lost_from = lost_from or self._keep(effect)
            elif isinstance(effect, fx.Publish):
                if lost_from is None or not effect.topic.endswith("/event"):
                    self._publish(effect)
            else:
                self._do(effect)
        if lost_from is not None:
            self.core.outbox.retract(lost_from)

    def _keep(self, effect: fx.KeepEvent) -> int | None:
        try:
            self._outbox.keep(effect.number, effect.payload)
        except StateNotWritable as error:
            # An event that is not on disk must not be seen: its number would be given twice.
            log.error("event_lost", number=effect.number, reason=error.message)
            self.core.degraded = True
            return effect.number
        return None

    def _publish(self, effect: fx.Publish) -> None:
        if self._connection is not None:
            self._connection.publish(effect)

    def _do(self, effect: fx.Effect) -> None:
        core = self.core
        match effect:
            case fx.SampleTelemetry():
                sample = self._telemetry.sample()
                self._perform(core.heartbeat(self._clock(), sample))
            case fx.Persist():
                self._persist()
            case fx.DropEvents(through, numbers):
                self._write(lambda: self._outbox.drop(through, numbers))
            case fx.NewLog(log_id, events):
                self._write(lambda: self._outbox.start_log(log_id, events))
            case fx.KeepTrust(envelope):
                if self._write(lambda: self._directory.write(TRUST, envelope)):
                    self._perform(core.trust_kept(self._clock()))
            case fx.Connect(certificate):
                self._connect(NEXT_PEM if certificate == "next" else AGENT_PEM)
            case fx.Disconnect(reason):
                self._renewed = reason == "renewed"
                if self._connection is not None:
                    self._connection.close(reason)
            case fx.Download() | fx.Verify() | fx.Open() | fx.Activate():
                self._worker.start(effect)
            case fx.CancelJob():
                self._worker.cancel(effect)
            case fx.FetchTrust():
                self._worker.fetch_trust(effect)
            case fx.MakeKey(request_id):
                csr = renew.begin(self._directory)
                self._offer(lambda moment: core.csr_made(moment, request_id, csr))
            case fx.InstallCertificate():
                self._install(effect)
            case fx.PromoteCertificate():
                self._write(lambda: renew.promote(self._directory))
                log.info("certificate_in_use", fleet=core.certificates.identity.fleet)
            case fx.AskRecovery():
                self._worker.ask_recovery(effect)
            case fx.Diagnose(command_id):
                facts = self._diagnose()
                self._offer(lambda moment: core.diagnosed(moment, command_id, facts))
            case fx.CollectLogs(command_id):
                lines = {"lines": [] if self._logs is None else self._logs.newest()}
                self._offer(lambda moment: core.diagnosed(moment, command_id, lines))
            case fx.Restart():
                self.restart = True
                self.stop()

    def _persist(self) -> None:
        self._write(lambda: self._directory.write_state(self.core.state))

    def _write(self, change: Callable[[], None]) -> bool:
        try:
            change()
        except StateNotWritable as error:
            # It runs on with what it knows; after a restart it would know less, which is safe.
            log.error("state_not_written", reason=error.message)
            self.core.degraded = True
            return False
        self.core.degraded = False
        return True

    def _connect(self, pem: str) -> None:
        core = self.core
        system, floor = self._clock().system, core.state.time_floor
        try:
            tls = verified_context(core.trust.bundle.ca, clock_is_behind=system < floor)
            tls.load_cert_chain(self._directory.path / pem)
        except (OSError, ssl.SSLError) as error:
            log.error("connection_not_possible", reason=str(error))
            self._offer(lambda moment: core.disconnected(moment))
            return
        broker = Broker(
            host=self._home.mqtt_host,
            port=self._home.mqtt_port,
            client_id=core.client_id,
            filters=core.filters,
            will=core.will,
            tls=tls,
            agent_time=floor if system < floor else None,
        )
        self._connection = connection = Connection(
            broker,
            Handlers(
                connected=lambda: self._post(self._on_connected),
                message=lambda topic, payload: self._offer(
                    lambda moment: core.message(moment, topic, payload)
                ),
                ended=lambda ended: self._post(lambda moment: self._on_ended(moment, ended)),
            ),
        )
        connection.open()

    def _on_connected(self, moment: Moment) -> list[fx.Effect]:
        log.info("connected", host=self._home.mqtt_host, port=self._home.mqtt_port)
        return self.core.connected(moment)

    def _on_ended(self, moment: Moment, ended: Ended) -> list[fx.Effect]:
        log.warning("disconnected", reason=ended.reason)
        self._connection = None
        renewed, self._renewed = self._renewed, False
        return self.core.disconnected(
            moment, renewed=renewed, refused=ended.refused, disbelieved=ended.disbelieved
        )

    def _install(self, effect: fx.InstallCertificate) -> None:
        core, identity = self.core, effect.identity
        try:
            leaf = renew.install(
                self._directory, effect.certificate, core.trust, identity, self._clock().system
            )
        except (renew.CertificateNotUsable, StateNotWritable, StateDamaged) as error:
            log.warning("certificate_refused", reason=error.message)
            self._offer(lambda moment: core.certificate_refused(moment))
            return
        log.info("certificate_renewed", not_after=leaf.not_valid_after_utc.isoformat())
        self._offer(
            lambda moment: core.certificate_installed(moment, renew.certified(leaf, identity))
        )

    def _diagnose(self) -> dict[str, str | int]:
        return {
            "agent_version": AGENT_VERSION,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}"[:100],
            "machine": platform.machine(),
            "cpus": os.cpu_count() or 1,
            "events_held": len(self.core.outbox),
            "trust_version": self.core.trust.version,
            "step": self.core.step.name.lower(),
        }

    def _say_goodbye(self) -> None:
        """End the session with DISCONNECT after what is on its way, within a few seconds."""
        self._perform(self.core.stop(self._clock()))
        if self._connection is not None:
            self._connection.close("stopped")
            self._connection.join(STOP_WITHIN_S)


def read_credentials(directory: StateDir) -> Credentials:
    """Return who the agent is, from its certificate. Raises: NotEnrolled, StateDamaged."""
    data = directory.get(AGENT_PEM)
    try:
        certificate = x509.load_pem_x509_certificate(data)
        identity = identity_from_certificate(certificate)
    except (ValueError, PkiError):
        raise StateDamaged(f"the certificate in {directory.path / AGENT_PEM} is unusable") from None
    if not isinstance(identity, AgentIdentity):
        raise StateDamaged("the certificate is not an agent's")
    encryption_key = keys.get_or_make_encryption_key(directory)
    return Credentials(
        identity=identity,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        encryption_kid=kid_of(encryption_key.public_key().public_bytes_raw()),
        next=renew.find_next(directory),
        issuer=authority_key_id(certificate),
    )


def read_trust(directory: StateDir) -> TrustStore:
    """Return the trust bundle that was persisted last. Raises: NotEnrolled, StateDamaged."""
    try:
        return TrustStore.open_first(directory.get(TRUST))
    except (PkiError, ProtocolError) as error:
        raise StateDamaged(f"{directory.path / TRUST}: {error}") from error
