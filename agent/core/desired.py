"""The desired document and the way to it: download, verify, ask for the key, open, activate."""

from enum import IntEnum
from uuid import UUID

from agent.core.backoff import DOWNLOAD, REOPEN, REQUEST
from agent.core.effects import Activate, CancelJob, Download, Open, SampleTelemetry, Verify
from agent.core.errors import JobFailure
from agent.core.fallback import find_on_device, record_failure
from agent.core.state import AgentState, Installed, SeqFloor
from agent.core.turn import Turn
from tensorguard.protocol.messages import (
    AgentProgress,
    Desired,
    DesiredPackage,
    Grant,
    KeyRequest,
    Position,
    Progress,
)
from tensorguard.protocol.topics import UpKind

SEALED_BYTES = 80
PROGRESS_EVERY_S = 10.0
MAX_DOWNLOAD_TRIES = 20  # without a byte of progress in between
MAX_TURNS_WAITED = 3_000  # about a day: only so many agents of a fleet download at the same time
# Reasons to refuse a package that the next trust bundle may take away: it names publishers, the
# names that they may sign, and from when until when.
BEHIND_ON_PUBLISHERS = frozenset(
    {"unknown-publisher", "publisher-not-allowed", "publisher-not-yet-valid", "publisher-expired"}
)
MAX_TRUST_TRIES = 5
MAX_KEY_REQUESTS = 30  # about two hours of back-off
SOON_REQUESTS = 3  # so many unanswered ones, and a package does not count as about to run
_TERMINAL: frozenset[AgentProgress | None] = frozenset({None, "succeeded", "failed", "rejected"})


class Step(IntEnum):
    """What the runtime is busy with, or what the agent waits for."""

    IDLE = 0
    DOWNLOAD = 1
    VERIFY = 2
    GRANT = 3
    OPEN = 4
    ACTIVATE = 5


class DesiredMachine:
    """Moves what runs towards what is desired; one job at a time, an older job's answers ignored.

    A package that is sealed at rest is closed by every restart. Opening it again is a job like any
    other, with a grant of its own, of which no deployment is told.
    `due_s` is when `tick` has something to do, in monotonic seconds, or None.
    """

    __slots__ = (
        "_attempt",
        "_candidate",
        "_closed",
        "_done_bytes",
        "_fetched_again",
        "_job",
        "_reopening",
        "_reopenings",
        "_reported_s",
        "_request_id",
        "_restoring",
        "_trust_tries",
        "_waited",
        "due_s",
        "link_refused",
        "step",
    )

    def __init__(self) -> None:
        self.step = Step.IDLE
        self.due_s: float | None = None
        self.link_refused = False
        self._job = 0
        self._attempt = 0
        self._done_bytes = 0
        self._fetched_again = False
        self._trust_tries = 0
        self._waited = 0
        self._reported_s = 0.0
        self._request_id: UUID | None = None
        self._candidate: Installed | None = None
        self._closed = False
        self._reopening = False
        self._reopenings = 0
        self._restoring = False

    def runs(self, state: AgentState) -> Installed | None:
        """What runs, or will as soon as the platform has answered the request for its key."""
        soon = self._reopening and not self._reopenings and self._attempt <= SOON_REQUESTS
        return None if self._closed and not soon else state.running

    def has(self, state: AgentState) -> Position | None:
        """The position to put into the heartbeat; None asks for the document once more."""
        if state.desired is None or self.link_refused:
            return None
        return Position(epoch=state.desired.epoch, revision=state.desired.revision)

    def resume(self, turn: Turn) -> None:
        """Take up after a restart what was not finished before it, or has ended with it."""
        running = turn.state.running
        self._closed = running is not None and running.at_rest == "sealed"
        if turn.state.desired is not None and turn.state.stage not in _TERMINAL:
            self._set_out(turn, turn.state.desired)
        else:
            self._reopen(turn)

    def accept(self, turn: Turn, desired: Desired) -> bool:
        """Follow a verified document if its (epoch, revision) rises; equal changes nothing.

        Only a refused link is renewed by an equal one, which the hub signs again in time.
        Tell whether a package is now being fetched.
        """
        current = turn.state.desired
        if current is not None:
            old, new = (current.epoch, current.revision), (desired.epoch, desired.revision)
            if new < old:
                return False
            if new == old:
                self._repeat(turn, desired)
                return False
        self._cancel(turn)
        turn.state.desired = desired
        turn.state.reason = None
        turn.persist()
        running = turn.state.running
        open_digest = running.digest if running and not self._closed else None
        if desired.package is None or desired.package.digest == open_digest:
            self._move(turn, None if desired.deployment_id is None else "succeeded")
            return False
        self._move(turn, "notified")
        return self._set_out(turn, desired)

    def report(self, turn: Turn) -> None:
        """Say how far it is; at each connect, because no progress message is ever acked."""
        desired, stage = turn.state.desired, turn.state.stage
        if desired is None or desired.deployment_id is None or stage is None:
            return
        self._reported_s = turn.mono_s
        progress = Progress(
            deployment_id=desired.deployment_id,
            state=stage,
            percent=self._percent(desired.package) if stage == "downloading" else None,
            reason=turn.state.reason,
            at=turn.moment.system,
        )
        turn.publish(UpKind.PROGRESS, progress)

    def connected(self, turn: Turn) -> None:
        """Repeat what may have been lost with the connection."""
        self.report(turn)
        if self.step is Step.GRANT:
            self._attempt = 0
            self._request_key(turn)
        elif self.step is Step.IDLE:
            self._reopen(turn)

    def tick(self, turn: Turn) -> None:
        """Do what is due."""
        if self.due_s is None or turn.mono_s < self.due_s:
            return
        self.due_s = None
        if self.step is Step.DOWNLOAD:
            self._download(turn)
        elif self.step is Step.GRANT:
            self._request_key(turn)
        elif self.step is Step.IDLE:
            self._reopen(turn)

    def downloading(self, turn: Turn, job: int, done_bytes: int) -> None:
        """The runtime has so many bytes of the package file."""
        if job != self._job or self.step is not Step.DOWNLOAD:
            return
        if done_bytes > self._done_bytes:
            self._attempt = self._waited = 0
        self._done_bytes = done_bytes
        if turn.mono_s - self._reported_s >= PROGRESS_EVERY_S:
            self.report(turn)

    def downloaded(self, turn: Turn, job: int) -> None:
        """The package file is there."""
        if job != self._job or self.step is not Step.DOWNLOAD:
            return
        self.step = Step.VERIFY
        self._move(turn, "verifying")
        turn.do(Verify(job, self._package(turn).digest, self._desired(turn)))

    def verified(self, turn: Turn, job: int, candidate: Installed) -> None:
        """The file is the desired package, and may run here: ask for its key."""
        if job != self._job or self.step is not Step.VERIFY:
            return
        self._candidate = candidate
        self.step = Step.GRANT
        self._attempt = 0
        self._request_id = turn.new_id()
        self._request_key(turn)

    def granted(self, turn: Turn, grant: Grant, own_kid: str) -> bool:
        """Take the answer to our key request; tell whether it was one."""
        package = turn.state.desired.package if turn.state.desired else None
        if self.step is not Step.GRANT or package is None:
            return False
        if grant.request_id != self._request_id or grant.package_digest != package.digest:
            return False
        if grant.denied is not None:
            self._stop(turn, "rejected", JobFailure("policy", "grant-denied", grant.denied))
            return True
        expired = bool(grant.exp) and (grant.exp or 0) <= turn.now.timestamp()
        if grant.kid != own_kid or grant.exp is None or expired:
            return False
        if grant.sealed is None or len(grant.sealed) != SEALED_BYTES:
            return False
        self.step = Step.OPEN
        self.due_s = None
        self._request_id = None
        turn.do(Open(self._job, package.digest, self._desired(turn), grant))
        return True

    def opened(self, turn: Turn, job: int, *, decrypted: bool) -> None:
        """The files are there, whole and verified; `decrypted` False: they already were."""
        if job != self._job or self.step is not Step.OPEN:
            return
        if decrypted:
            turn.record("model.decrypted", self._describe())
        self.step = Step.ACTIVATE
        self._move(turn, "activating")
        turn.do(Activate(job, self._package(turn).digest))

    def activated(self, turn: Turn, job: int, inference: dict[str, str | int]) -> None:
        """The package runs; `inference` says what was tried and how long it took."""
        if job != self._job or self.step is not Step.ACTIVATE or self._candidate is None:
            return
        state, new = turn.state, self._candidate
        turn.record("model.activated", self._describe())
        turn.record("model.inference", self._describe() | inference)
        if state.running is not None and state.running.digest != new.digest:
            state.last_good = state.running
        state.running, state.reason = new, None
        self._closed = False
        self._reopenings = 0
        floor = state.floors.get(new.name)
        if floor is None or new.seq >= floor.seq:
            state.floors[new.name] = SeqFloor(seq=new.seq, digest=new.digest)
        self._move(turn, "succeeded")
        self._idle()

    def failed(self, turn: Turn, job: int, failure: JobFailure) -> None:
        """A step did not succeed: try again where that can help, else say why and stay."""
        if job != self._job or self.step is Step.IDLE:
            return
        if self.step is Step.DOWNLOAD and failure.kind == "busy":
            self._waited += 1
            if self._waited < MAX_TURNS_WAITED:
                self.due_s = turn.mono_s + DOWNLOAD.delay_s(self._waited, turn.uniform)
                return
        if self.step is Step.DOWNLOAD and failure.kind in ("network", "link"):
            self._attempt += 1
            if self._attempt < MAX_DOWNLOAD_TRIES:
                self.link_refused = failure.kind == "link"
                self.due_s = turn.mono_s + DOWNLOAD.delay_s(self._attempt, turn.uniform)
                return
        if failure.code in BEHIND_ON_PUBLISHERS and self._trust_tries < MAX_TRUST_TRIES:
            # The trust bundle that says otherwise may be on its way: fetch again a little later.
            self._trust_tries += 1
            self.step = Step.DOWNLOAD
            self.due_s = turn.mono_s + DOWNLOAD.delay_s(self._trust_tries, turn.uniform)
            return
        if self._restoring:
            self._begin(turn)  # it is not whole any more: fetch it like any other
            return
        if self.step is Step.VERIFY and failure.kind == "damaged" and not self._fetched_again:
            self._fetched_again = True  # a part that was resumed may be: fetch it whole, once
            self._fetch(turn)
            return
        running = None if self._closed else turn.state.running
        record_failure(turn, self.step.name, self._package(turn).digest, failure, running)
        self._stop(turn, "rejected" if failure.kind == "policy" else "failed", failure)

    def _repeat(self, turn: Turn, desired: Desired) -> None:
        if self.link_refused and desired.package is not None:
            turn.state.desired = desired
            turn.persist()
            self.link_refused = False
            if self.step is Step.DOWNLOAD:
                self.due_s = turn.mono_s
        self.report(turn)

    def _reopen(self, turn: Turn) -> None:
        """Open again what this process's start has closed, if it is still the desired package."""
        desired, running = turn.state.desired, turn.state.running
        if not self._closed or desired is None or desired.package is None or running is None:
            return
        if desired.package.digest == running.digest:
            self._reopening = True
            self._begin(turn)

    def _set_out(self, turn: Turn, desired: Desired) -> bool:
        """Fetch the package, or go back to what lies beside what runs; tell whether it fetches."""
        last_good = find_on_device(turn.state, desired)
        if last_good is None:
            self._begin(turn)
            return True
        self._job += 1
        self._restoring = True
        self._candidate = last_good
        self.step = Step.ACTIVATE
        self._move(turn, "activating")
        turn.do(Activate(self._job, last_good.digest))
        return False

    def _begin(self, turn: Turn) -> None:
        self._restoring = False
        self._job += 1
        self._fetched_again = False
        self._trust_tries = 0
        self._fetch(turn)

    def _fetch(self, turn: Turn) -> None:
        self.step = Step.DOWNLOAD
        self._attempt = self._waited = 0
        self._done_bytes = 0
        self._move(turn, "downloading")
        self._download(turn)

    def _download(self, turn: Turn) -> None:
        package = self._package(turn)
        turn.do(Download(self._job, package.digest, package.size, package.url))

    def _request_key(self, turn: Turn) -> None:
        desired = self._desired(turn)
        if self._attempt >= MAX_KEY_REQUESTS:
            failure = JobFailure(
                "device", "no-grant", "the platform did not answer the key request"
            )
            self._stop(turn, "failed", failure)
            return
        if self._request_id is None or desired.deployment_id is None:
            failure = JobFailure("policy", "no-deployment", "the document names no deployment")
            self._stop(turn, "rejected", failure)
            return
        if turn.online:
            turn.publish(
                UpKind.KEY_REQUEST,
                KeyRequest(
                    request_id=self._request_id,
                    package_digest=self._package(turn).digest,
                    deployment_id=desired.deployment_id,
                ),
            )
            self._attempt += 1
        self.due_s = turn.mono_s + REQUEST.delay_s(self._attempt, turn.uniform)

    def _move(self, turn: Turn, stage: AgentProgress | None) -> None:
        if self._reopening:  # the deployment is over, and stays as it ended
            turn.persist()
            return
        turn.state.stage = stage
        turn.persist()
        self.report(turn)

    def _stop(self, turn: Turn, stage: AgentProgress, failure: JobFailure) -> None:
        turn.state.reason = failure.reason
        self._move(turn, stage)
        reopening = self._reopening
        self._idle()
        if reopening:
            # The platform may think otherwise later: it hears now that nothing runs here.
            self.due_s = turn.mono_s + REOPEN.delay_s(self._reopenings, turn.uniform)
            self._reopenings += 1
            if turn.online:
                turn.do(SampleTelemetry())

    def _cancel(self, turn: Turn) -> None:
        if self.step is not Step.IDLE:
            turn.do(CancelJob(self._job))
        self._idle()

    def _idle(self) -> None:
        self.step = Step.IDLE
        self.due_s = None
        self.link_refused = False
        self._request_id = None
        self._candidate = None
        self._reopening = False
        self._restoring = False

    def _describe(self) -> dict[str, str | int]:
        new = self._candidate
        assert new is not None
        return {"name": new.name, "version": new.version, "digest": new.digest, "seq": new.seq}

    def _percent(self, package: DesiredPackage | None) -> int | None:
        if package is None or package.size == 0:
            return None
        return min(100, self._done_bytes * 100 // package.size)

    @staticmethod
    def _desired(turn: Turn) -> Desired:
        assert turn.state.desired is not None
        return turn.state.desired

    def _package(self, turn: Turn) -> DesiredPackage:
        package = self._desired(turn).package
        assert package is not None
        return package
