"""What simulated agents do with packages: fetch, verify, open, and throw away."""

import io
import shutil
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Lock
from urllib.parse import urljoin, urlsplit

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.core.agent import AgentCore
from agent.core.clock import Moment, agent_time
from agent.core.effects import Activate, Download, Effect, Open, Verify
from agent.core.errors import JobFailure
from agent.core.state import Installed
from agent.errors import AgentError
from agent.runtime.bundles import fetch_bundle
from agent.runtime.downloader import DownloadFailed, download
from agent.runtime.https import request, verified_context
from agent.runtime.memory import find_memory
from agent.runtime.packages import PackageRefused, PackageStore, publishers, refused
from simulators.identities import Home
from tensorguard.pki.bundle import TrustStore
from tensorguard.tgsp import opener, reader
from tensorguard.tgsp.errors import TgspError

Input = Callable[[Moment], list[Effect]]
Step = Download | Verify | Open | Activate
THREADS = 4
HEADER_BYTES = 1536 * 1024  # more than MANIFEST, SIGS and the grants of one platform need
NO_BUNDLE_FOR_S = 2.0


class DownloadMode(StrEnum):
    """How much of a package a simulated agent really handles."""

    real = "real"  # every byte by HTTPS, verified, decrypted with its own grant, deleted
    manifest = "manifest"  # the header by a range request, verified; the grant opened
    none = "none"  # only the messages


@dataclass(frozen=True, slots=True)
class Job:
    """A step of one agent, and what it needs; `cuts`: its download ends half-way."""

    step: Step
    home: Home
    core: AgentCore
    cuts: bool = False


class PackageWork:
    """A few threads for all agents of a simulation; answers come back as inputs for a core."""

    def __init__(self, mode: DownloadMode) -> None:
        self._mode = mode
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="package")
        self._folder = TemporaryDirectory(prefix="tensorguard-simulate-")
        self._memory = find_memory(Path(self._folder.name))
        self._stopping = Event()
        self._asking = Lock()
        self._bundles: dict[int, tuple[float, bytes | None]] = {}

    def submit(self, job: Job, answer: Callable[[Input], None]) -> None:
        """Do a step; `answer` is called from another thread."""
        if not self._stopping.is_set():
            self._pool.submit(self._run, job, answer)

    def submit_trust(
        self, home: Home, core: AgentCore, version: int, answer: Callable[[Input], None]
    ) -> None:
        """Fetch a trust bundle, once for all agents; `answer` is called from another thread."""
        if not self._stopping.is_set():
            self._pool.submit(self._fetch_trust, home, core, version, answer)

    def close(self) -> None:
        """Stop, and remove what is left of packages."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._folder.cleanup()
        if self._memory is not None:
            shutil.rmtree(self._memory, ignore_errors=True)

    def _run(self, job: Job, answer: Callable[[Input], None]) -> None:
        number, core = job.step.job, job.core
        try:
            answer(self._do(job))
        except (DownloadFailed, PackageRefused) as error:
            failure = error.failure
            answer(lambda moment: core.job_failed(moment, number, failure))
        except Exception as error:
            crash = JobFailure("device", "simulator-error", f"{type(error).__name__}: {error}")
            answer(lambda moment: core.job_failed(moment, number, crash))

    def _do(self, job: Job) -> Input:
        step, core = job.step, job.core
        match step:
            case Download():
                self._download(step, job)
                return lambda moment: core.downloaded(moment, step.job)
            case Verify():
                candidate = self._verify(step, job)
                return lambda moment: core.verified(moment, step.job, candidate)
            case Open():
                self._open(step, job)
                return lambda moment: core.opened(moment, step.job)
            case Activate():
                report: dict[str, str | int] = {"engine": "none", "checked": "simulated agent"}
                return lambda moment: core.activated(moment, step.job, report)

    def _download(self, step: Download, job: Job) -> None:
        if self._mode is DownloadMode.none:
            return
        store = self._store(job)
        if self._mode is DownloadMode.manifest:
            store.file(step.digest).write_bytes(_get_header(job, step))
            return
        download(
            job.home.device_url,
            step.url,
            store.file(step.digest),
            step.size_bytes,
            platform=_tls(job.core.trust),
            cancelled=self._stopping,
            progress=_cut_at(step.size_bytes // 2) if job.cuts else lambda done: None,
        )

    def _verify(self, step: Verify, job: Job) -> Installed:
        if self._mode is DownloadMode.none:
            release = step.desired.release
            return Installed(
                name=release.name if release else "unknown",
                version=release.version if release else "0.0.0",
                digest=step.digest,
                seq=max(1, step.desired.min_seq),
            )
        if self._mode is DownloadMode.manifest:
            return _verify_header(self._header(job, step), step, job)
        return self._store(job).verify(
            step.desired,
            job.core.trust,
            _agent_time(job.core),
            fleet=job.home.fleet,
            floors=dict(job.core.state.floors),
        )

    def _open(self, step: Open, job: Job) -> None:
        if self._mode is DownloadMode.none:
            return
        store = self._store(job)
        key = X25519PrivateKey.from_private_bytes(job.home.encryption_key)
        try:
            if self._mode is DownloadMode.manifest:
                assert step.grant.sealed is not None
                unwrap = opener.unwrap_detached(
                    step.grant.sealed, step.grant.exp or 0, key, _agent_time(job.core)
                )
                unwrap(self._header(job, step))
                return
            store.open(
                step.desired,
                step.grant,
                key,
                job.core.trust,
                _agent_time(job.core),
                fleet=job.home.fleet,
                floors=dict(job.core.state.floors),
            )
        except TgspError as error:
            raise refused(error) from error
        finally:
            store.close()
            shutil.rmtree(self._path(job), ignore_errors=True)

    def _header(self, job: Job, step: Verify | Open) -> reader.PackageHeader:
        package = step.desired.package
        assert package is not None
        data = self._store(job).file(step.digest).read_bytes()
        return reader.read_header(io.BytesIO(data), package.size)

    def _store(self, job: Job) -> PackageStore:
        path = self._path(job)
        path.mkdir(mode=0o700, exist_ok=True)
        memory = None if self._memory is None else self._memory / path.name
        store = PackageStore(path, memory)
        store.prepare()
        return store

    def _path(self, job: Job) -> Path:
        return Path(self._folder.name) / str(job.home.agent_id)

    def _fetch_trust(
        self, home: Home, core: AgentCore, version: int, answer: Callable[[Input], None]
    ) -> None:
        with self._asking:
            asked_s, envelope = self._bundles.get(version, (-NO_BUNDLE_FOR_S, None))
            if envelope is None and time.monotonic() - asked_s >= NO_BUNDLE_FOR_S:
                envelope = _get_bundle(home, core.trust, version)
                self._bundles[version] = (time.monotonic(), envelope)
        found = envelope
        answer(lambda moment: core.trust_fetched(moment, found))


def _cut_at(size_bytes: int) -> Callable[[int], None]:
    """Return what breaks a download off once so many bytes have come."""

    def cut(done: int) -> None:
        if done >= size_bytes:
            raise DownloadFailed("network", "download-cut", f"simulated at {done} bytes")

    return cut


def _get_bundle(home: Home, trust: TrustStore, version: int) -> bytes | None:
    try:
        answer = fetch_bundle(_tls(trust), home.device_url, version)
    except AgentError:
        return None
    return answer.body if answer.status == 200 else None


def _get_header(job: Job, step: Download) -> bytes:
    url = urlsplit(urljoin(job.home.device_url + "/", step.url))
    headers = {"Range": f"bytes=0-{HEADER_BYTES - 1}"}
    target = f"{url.path}?{url.query}"
    answer = request(_tls(job.core.trust), job.home.device_url, target, headers=headers)
    if answer.status == 307 and (store := urlsplit(answer.location)).scheme == "https":
        target, base_url = f"{store.path}?{store.query}", f"https://{store.netloc}"
        answer = request(ssl.create_default_context(), base_url, target, headers=headers)
    if answer.status in (429, 503):
        raise DownloadFailed("busy", "platform-busy", f"HTTP status {answer.status}")
    if answer.status not in (200, 206):
        raise DownloadFailed("link", "link-refused", f"HTTP status {answer.status}")
    return answer.body


def _verify_header(header: reader.PackageHeader, step: Verify, job: Job) -> Installed:
    now = _agent_time(job.core)
    try:
        reader.verify_header(
            header, publishers(job.core.trust, now), now, digest=bytes.fromhex(step.digest)
        )
    except TgspError as error:
        raise refused(error) from error
    manifest = header.manifest
    return Installed(
        name=manifest.name,
        version=manifest.version,
        digest=step.digest,
        seq=manifest.seq,
        at_rest=manifest.at_rest,
    )


def _tls(trust: TrustStore) -> ssl.SSLContext:
    return verified_context(trust.bundle.ca)


def _agent_time(core: AgentCore) -> datetime:
    return agent_time(datetime.now(UTC), core.state.time_floor)
