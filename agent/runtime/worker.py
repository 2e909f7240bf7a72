"""The slow work, off the main thread: downloads, verification, decryption, trying the model."""

import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from threading import Event

import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.core.agent import AgentCore
from agent.core.clock import Moment, agent_time
from agent.core.effects import (
    Activate,
    AskRecovery,
    CancelJob,
    Download,
    Effect,
    FetchTrust,
    Open,
    Verify,
)
from agent.core.errors import JobFailure
from agent.errors import AgentError
from agent.runtime.bundles import fetch_bundle
from agent.runtime.downloader import Cancelled, DownloadFailed, download
from agent.runtime.health import HealthCheck
from agent.runtime.https import verified_context
from agent.runtime.inference import ModelFailed, try_model
from agent.runtime.packages import PackageRefused, PackageStore
from agent.runtime.recover import ask
from agent.runtime.statedir import StateDir

PROGRESS_BYTES = 4 * 1024 * 1024  # one report to the core for so much
MAX_TRUST_BYTES = 1024 * 1024

Input = Callable[[Moment], list[Effect]]
Step = Download | Verify | Open | Activate
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Device:
    """What a job needs of the device: where it lives, its key, its packages, its clock."""

    device_url: str
    encryption_key: X25519PrivateKey
    packages: PackageStore
    directory: StateDir
    now: Callable[[], Moment]
    health: HealthCheck | None = None


class Worker:
    """One thread for package jobs and one for trust bundles; answers are posted as inputs."""

    def __init__(self, device: Device, core: AgentCore, post: Callable[[Input], None]) -> None:
        self._device = device
        self._core = core
        self._post = post
        self._jobs = ThreadPoolExecutor(1, thread_name_prefix="package")
        self._asks = ThreadPoolExecutor(1, thread_name_prefix="trust")
        self._cancelled: dict[int, Event] = {}

    def start(self, step: Step) -> None:
        """Do a step of a job; its answer is posted."""
        if step.job not in self._cancelled:
            self._cancelled = {step.job: Event()}  # older jobs have ended or were cancelled
        cancelled = self._cancelled[step.job]
        self._jobs.submit(self._run, step, cancelled)

    def cancel(self, effect: CancelJob) -> None:
        """Have the job stop at the next block."""
        if event := self._cancelled.pop(effect.job, None):
            event.set()

    def fetch_trust(self, effect: FetchTrust) -> None:
        """Ask the platform for a trust bundle."""
        self._asks.submit(self._fetch_trust, effect.version)

    def ask_recovery(self, effect: AskRecovery) -> None:
        """Ask the platform for a certificate in place of the one that has ended."""
        self._asks.submit(self._ask_recovery, effect)

    def close(self) -> None:
        """Stop; what is downloaded stays for the next start."""
        for event in self._cancelled.values():
            event.set()
        self._jobs.shutdown(wait=False, cancel_futures=True)
        self._asks.shutdown(wait=False, cancel_futures=True)

    def _run(self, step: Step, cancelled: Event) -> None:
        if cancelled.is_set():
            return
        job = step.job
        try:
            answer = self._do(step, cancelled)
        except Cancelled:
            return
        except (DownloadFailed, PackageRefused, ModelFailed) as error:
            failure = error.failure
            log.warning("job_failed", step=type(step).__name__.lower(), reason=failure.reason)
            self._post(lambda moment: self._core.job_failed(moment, job, failure))
        except Exception as error:
            # Whatever a package makes our code do, the agent lives on and says what happened.
            log.exception("job_crashed", step=type(step).__name__.lower())
            crash = JobFailure("device", "internal-error", type(error).__name__)
            self._post(lambda moment: self._core.job_failed(moment, job, crash))
        else:
            self._post(answer)

    def _do(self, step: Step, cancelled: Event) -> Input:
        if isinstance(step, Download):
            return self._download(step, cancelled)
        if isinstance(step, Verify):
            return self._verify(step)
        if isinstance(step, Open):
            return self._open(step)
        return self._activate(step)

    def _download(self, step: Download, cancelled: Event) -> Input:
        core, reported = self._core, 0

        def progress(done_bytes: int) -> None:
            nonlocal reported
            if done_bytes - reported >= PROGRESS_BYTES or done_bytes == step.size_bytes:
                reported = done_bytes
                self._post(lambda moment: core.downloading(moment, step.job, done_bytes))

        download(
            self._device.device_url,
            step.url,
            self._device.packages.file(step.digest),
            step.size_bytes,
            platform=self._tls(),
            cancelled=cancelled,
            progress=progress,
        )
        return lambda moment: core.downloaded(moment, step.job)

    def _verify(self, step: Verify) -> Input:
        core = self._core
        candidate = self._device.packages.verify(
            step.desired,
            core.trust,
            self._agent_time(),
            fleet=core.certificates.current.identity.fleet,
            floors=dict(core.state.floors),
        )
        return lambda moment: core.verified(moment, step.job, candidate)

    def _open(self, step: Open) -> Input:
        core = self._core
        decrypted = self._device.packages.open(
            step.desired,
            step.grant,
            self._device.encryption_key,
            core.trust,
            self._agent_time(),
            fleet=core.certificates.current.identity.fleet,
            floors=dict(core.state.floors),
        )
        return lambda moment: core.opened(moment, step.job, decrypted=decrypted)

    def _activate(self, step: Activate) -> Input:
        core, packages = self._core, self._device.packages
        directory, before = packages.directory(step.digest), packages.find_current()
        if not directory.is_dir():
            raise ModelFailed("not-on-device", "its files are not here any more")
        report = try_model(directory)
        packages.activate(step.digest)
        if self._device.health is not None:
            try:
                self._device.health.run(directory, step.digest)
            except ModelFailed:
                packages.point_back(before)
                raise
            report = report | {"health": "ok"}
        running, last_good = core.state.running, core.state.last_good
        keep = running if running and running.digest != step.digest else last_good
        packages.prune({step.digest, keep.digest if keep else step.digest})
        return lambda moment: core.activated(moment, step.job, report)

    def _fetch_trust(self, version: int) -> None:
        envelope = None
        try:
            answer = fetch_bundle(
                self._tls(),
                self._device.device_url,
                version,
                agent_time=self._core.state.time_floor if self._clock_is_behind() else None,
            )
            if answer.status == 200 and len(answer.body) <= MAX_TRUST_BYTES:
                envelope = answer.body
            elif answer.status != 404:
                log.warning("trust_not_fetched", version=version, status=answer.status)
        except AgentError as error:
            log.warning("trust_not_fetched", version=version, reason=error.message)
        self._post(lambda moment: self._core.trust_fetched(moment, envelope))

    def _ask_recovery(self, effect: AskRecovery) -> None:
        core, certificate, refused = self._core, None, False
        try:
            answer = ask(
                self._device.directory,
                self._device.device_url,
                effect.csr,
                self._tls(),
                core.state.time_floor if self._clock_is_behind() else None,
            )
            certificate, refused, reason = answer.certificate, answer.refused, answer.reason
        except AgentError as error:
            reason = error.message
        if certificate is None:
            log.warning("not_recovered", reason=reason)
        self._post(
            lambda moment: core.recovery_answered(
                moment, effect.request_id, certificate, refused=refused
            )
        )

    def _tls(self) -> ssl.SSLContext:
        # A download is not checked for the server's notAfter: the package is, in every way.
        return verified_context(self._core.trust.bundle.ca, clock_is_behind=self._clock_is_behind())

    def _clock_is_behind(self) -> bool:
        return self._device.now().system < self._core.state.time_floor

    def _agent_time(self) -> datetime:
        return agent_time(self._device.now().system, self._core.state.time_floor)
