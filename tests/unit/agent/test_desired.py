"""The desired document: what is followed, what is refused, and what is said about it."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.core import effects as fx
from agent.core.desired import MAX_DOWNLOAD_TRIES, MAX_TRUST_TRIES, Step
from agent.core.errors import FailureKind, JobFailure
from tests.unit.agent.builders import (
    DEPLOYMENT,
    KID,
    NOW,
    Bench,
    Signers,
    desired,
    grant,
    installed,
)
from tests.unit.agent.builders import package as a_package


def states(bench: Bench) -> list[str]:
    return [one.state for one in bench.progress()]


def failure(kind: FailureKind = "device") -> JobFailure:
    return JobFailure(kind, "some-code", "it did not work")


def to_grant(bench: Bench) -> UUID:
    """Bring the machine to where it waits for a grant; return the request's id."""
    bench.connect()
    bench.send_desired(desired(bench.signers))
    job = bench.last(fx.Download).job
    bench.obey(bench.core.downloaded(bench.moment, job))
    bench.obey(bench.core.verified(bench.moment, job, installed()))
    return bench.key_requests()[-1].request_id


def test_the_whole_way_is_reported_step_by_step_and_ends_with_the_digest(bench: Bench) -> None:
    bench.connect()
    bench.heartbeats()
    bench.events()
    bench.deploy(desired(bench.signers))
    assert states(bench) == ["notified", "downloading", "verifying", "activating", "succeeded"]
    beat = bench.heartbeats()[-1]
    assert beat.package is not None
    assert beat.package.digest == "11" * 32
    assert beat.has.desired is not None
    assert (beat.has.desired.epoch, beat.has.desired.revision) == (1, 1)
    bench.ack(1)
    assert [event.type for event in bench.events()] == [
        "model.decrypted",
        "model.activated",
        "model.inference",
    ]


def test_the_same_document_again_starts_nothing(bench: Bench) -> None:
    bench.connect()
    bench.send_desired(desired(bench.signers))
    bench.todo.clear()
    bench.send_desired(desired(bench.signers))
    assert bench.todo == []


def test_a_lower_revision_or_epoch_is_not_followed(bench: Bench) -> None:
    bench.connect()
    bench.send_desired(desired(bench.signers, revision=5, epoch=2))
    bench.todo.clear()
    bench.send_desired(desired(bench.signers, revision=4, epoch=2, package=a_package("22" * 32)))
    bench.send_desired(desired(bench.signers, revision=9, epoch=1, package=a_package("22" * 32)))
    assert bench.todo == []
    assert bench.state.desired is not None
    assert bench.state.desired.revision == 5


def test_a_higher_epoch_counts_more_than_a_lower_revision(bench: Bench) -> None:
    bench.connect()
    bench.send_desired(desired(bench.signers, revision=50, epoch=1))
    bench.send_desired(desired(bench.signers, revision=1, epoch=2, package=a_package("22" * 32)))
    assert bench.last(fx.Download).digest == "22" * 32


def test_a_newer_document_supersedes_the_work_on_the_older_one(bench: Bench) -> None:
    bench.connect()
    bench.send_desired(desired(bench.signers))
    old = bench.last(fx.Download).job
    bench.send_desired(desired(bench.signers, revision=2, package=a_package("22" * 32)))
    assert bench.last(fx.CancelJob).job == old
    bench.obey(bench.core.downloaded(bench.moment, old))
    assert bench.count(fx.Verify) == 0, "an answer of the older job moves nothing"
    bench.obey(bench.core.job_failed(bench.moment, old, failure()))
    assert bench.state.stage == "downloading"


def test_what_already_runs_is_succeeded_at_once(bench: Bench) -> None:
    bench.connect()
    bench.deploy(desired(bench.signers))
    bench.progress()
    bench.todo.clear()
    other = UUID(int=DEPLOYMENT.int + 1)
    bench.send_desired(desired(bench.signers, revision=2, deployment_id=other))
    assert bench.todo == []
    assert [(one.deployment_id, one.state) for one in bench.progress()] == [(other, "succeeded")]


def test_no_package_means_keep_what_runs(bench: Bench) -> None:
    bench.connect()
    bench.deploy(desired(bench.signers))
    bench.send_desired(desired(bench.signers, revision=2, package=None, deployment_id=None))
    assert bench.state.running == installed()
    assert bench.core.step is Step.IDLE


def test_a_withdrawal_stops_the_work(bench: Bench) -> None:
    bench.connect()
    bench.send_desired(desired(bench.signers))
    bench.send_desired(desired(bench.signers, revision=2, package=None, deployment_id=None))
    assert bench.count(fx.CancelJob) == 1
    assert bench.core.step is Step.IDLE


def test_a_restart_takes_up_what_was_not_finished(bench: Bench, signers: Signers) -> None:
    bench.connect()
    bench.send_desired(desired(signers))
    after = Bench(signers, state=bench.state)
    assert after.last(fx.Download).digest == "11" * 32


@pytest.mark.parametrize("stage", ["succeeded", "failed", "rejected"])
def test_a_restart_does_not_repeat_what_has_ended(stage: Any, signers: Signers) -> None:
    before = Bench(signers)
    before.connect()
    before.send_desired(desired(signers))
    before.state.stage = stage
    after = Bench(signers, state=before.state)
    assert after.count(fx.Download) == 0
    after.connect()
    assert states(after) == [stage], "but the platform hears of it again"


def test_a_cut_download_is_tried_again_and_gives_up_at_last(bench: Bench) -> None:
    bench.connect()
    bench.send_desired(desired(bench.signers))
    job = bench.last(fx.Download).job
    for _ in range(MAX_DOWNLOAD_TRIES):
        assert bench.state.stage == "downloading"
        bench.obey(bench.core.job_failed(bench.moment, job, failure("network")))
        bench.pass_time(61)
    assert bench.state.stage == "failed"
    assert bench.count(fx.Download) == MAX_DOWNLOAD_TRIES


def test_a_download_that_moves_on_is_never_given_up(bench: Bench) -> None:
    bench.connect()
    bench.send_desired(desired(bench.signers))
    job = bench.last(fx.Download).job
    for done in range(1, 3 * MAX_DOWNLOAD_TRIES):
        bench.obey(bench.core.downloading(bench.moment, job, done))
        bench.obey(bench.core.job_failed(bench.moment, job, failure("network")))
        bench.pass_time(61)
    assert bench.state.stage == "downloading"


def test_who_is_told_to_wait_for_its_turn_waits_and_has_not_failed(bench: Bench) -> None:
    bench.connect()
    bench.send_desired(desired(bench.signers))
    job = bench.last(fx.Download).job
    for _ in range(3 * MAX_DOWNLOAD_TRIES):
        bench.obey(bench.core.job_failed(bench.moment, job, failure("busy")))
        bench.pass_time(61)
    assert bench.state.stage == "downloading"
    assert bench.count(fx.Download) == 3 * MAX_DOWNLOAD_TRIES + 1


def test_a_refused_link_has_the_document_sent_again_and_its_new_link_used(bench: Bench) -> None:
    bench.connect()
    bench.send_desired(desired(bench.signers))
    job = bench.last(fx.Download).job
    bench.obey(bench.core.job_failed(bench.moment, job, failure("link")))
    bench.heartbeats()
    bench.pass_time(40)
    assert bench.heartbeats()[-1].has.desired is None
    bench.send_desired(desired(bench.signers, package=a_package(url="/fresh")))
    bench.pass_time(0.1)
    assert bench.last(fx.Download).url == "/fresh"


def test_a_damaged_file_is_fetched_again_once(bench: Bench) -> None:
    bench.connect()
    bench.send_desired(desired(bench.signers))
    job = bench.last(fx.Download).job
    for fetched in (1, 2):
        assert bench.count(fx.Download) == fetched
        bench.obey(bench.core.downloaded(bench.moment, job))
        bench.obey(bench.core.job_failed(bench.moment, job, failure("damaged")))
    assert bench.state.stage == "failed"


def test_an_unknown_publisher_has_the_bundle_asked_for_before_it_is_refused(
    bench: Bench,
) -> None:
    bench.connect()
    bench.send_desired(desired(bench.signers))
    job = bench.last(fx.Download).job
    unknown = JobFailure("signature", "unknown-publisher", "by nobody we know")
    for _ in range(MAX_TRUST_TRIES):
        bench.obey(bench.core.downloaded(bench.moment, job))
        bench.obey(bench.core.job_failed(bench.moment, job, unknown))
        assert bench.core.step is Step.DOWNLOAD
        bench.pass_time(61)
    assert bench.count(fx.FetchTrust) >= MAX_TRUST_TRIES
    bench.obey(bench.core.downloaded(bench.moment, job))
    bench.obey(bench.core.job_failed(bench.moment, job, unknown))
    assert bench.state.stage == "failed"


@pytest.mark.parametrize(
    ("kind", "stage", "event"),
    [
        ("signature", "failed", "signature.refused"),
        ("policy", "rejected", "package.refused"),
        ("device", "failed", "package.refused"),
    ],
)
def test_a_package_that_must_not_run_is_refused_with_its_reason(
    bench: Bench, kind: FailureKind, stage: str, event: str
) -> None:
    bench.connect()
    bench.events()
    bench.send_desired(desired(bench.signers))
    job = bench.last(fx.Download).job
    bench.obey(bench.core.downloaded(bench.moment, job))
    bench.obey(bench.core.job_failed(bench.moment, job, failure(kind)))
    last = bench.progress()[-1]
    assert (last.state, last.reason) == (stage, "some-code: it did not work")
    assert [one.type for one in bench.events()] == [event]
    assert bench.state.running is None


def test_a_failed_activation_falls_back_to_what_ran(bench: Bench) -> None:
    bench.connect()
    bench.deploy(desired(bench.signers))
    bench.events()
    bench.send_desired(desired(bench.signers, revision=2, package=a_package("22" * 32)))
    job = bench.last(fx.Download).job
    bench.obey(bench.core.downloaded(bench.moment, job))
    bench.obey(bench.core.verified(bench.moment, job, installed("22" * 32, seq=2)))
    request = bench.key_requests()[-1]
    bench.send_grant(grant(bench.signers, request.request_id, package_digest="22" * 32))
    bench.obey(bench.core.opened(bench.moment, job))
    bench.obey(bench.core.job_failed(bench.moment, job, failure()))
    assert bench.state.running == installed()
    types = [event.type for event in bench.events()]
    assert types == ["model.decrypted", "activation.failed", "fell-back"]
    bench.pass_time(40)
    beat = bench.heartbeats()[-1]
    assert beat.status == "degraded"
    assert beat.package is not None
    assert beat.package.digest == "11" * 32


def test_the_seq_floor_rises_with_what_ran_and_never_falls(bench: Bench) -> None:
    bench.connect()
    bench.deploy(desired(bench.signers))
    bench.state.floors["model"] = bench.state.floors["model"].__class__(seq=9, digest="99" * 32)
    bench.deploy(desired(bench.signers, revision=2, package=a_package("22" * 32)))
    assert bench.state.floors["model"].seq == 9
    assert bench.state.last_good == installed()


def test_a_key_request_is_repeated_with_the_same_id_until_it_is_answered(bench: Bench) -> None:
    request_id = to_grant(bench)
    bench.pass_time(300)
    repeated = bench.key_requests()
    assert len(repeated) >= 3
    assert {one.request_id for one in repeated} == {request_id}
    bench.send_grant(grant(bench.signers, request_id))
    assert bench.count(fx.Open) == 1
    bench.pass_time(600)
    assert bench.key_requests() == []


def test_a_key_request_is_repeated_after_a_reconnect(bench: Bench) -> None:
    request_id = to_grant(bench)
    bench.disconnect()
    bench.connect()
    assert [one.request_id for one in bench.key_requests()] == [request_id]


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": uuid4()},
        {"package_digest": "22" * 32},
        {"kid": "cd" * 32},
        {"exp": int(NOW.timestamp()) - 1},
        {"exp": None},
        {"sealed": bytes(79)},
        {"sealed": None},
    ],
    ids=["request", "package", "recipient", "expired", "no-expiry", "short", "nothing-sealed"],
)
def test_a_grant_for_anything_else_opens_nothing(bench: Bench, changes: dict[str, Any]) -> None:
    request_id = to_grant(bench)
    bench.send_grant(grant(bench.signers, **({"request_id": request_id} | changes)))
    assert bench.count(fx.Open) == 0
    assert bench.core.step is Step.GRANT, "it still waits for its own"
    bench.send_grant(grant(bench.signers, request_id, kid=KID))
    assert bench.count(fx.Open) == 1


def test_a_grant_that_comes_again_opens_nothing_more(bench: Bench) -> None:
    request_id = to_grant(bench)
    bench.send_grant(grant(bench.signers, request_id))
    bench.send_grant(grant(bench.signers, request_id))
    assert bench.count(fx.Open) == 1


def test_a_denial_ends_the_matter_with_its_reason(bench: Bench) -> None:
    request_id = to_grant(bench)
    denied = grant(bench.signers, request_id, denied="quarantined", sealed=None, kid=None, exp=None)
    bench.send_grant(denied)
    last = bench.progress()[-1]
    assert (last.state, last.reason) == ("rejected", "grant-denied: quarantined")


class Platform(RuleBasedStateMachine):
    """Documents in any order, answers of any job, cuts and restarts: the position never falls."""

    signers = Signers()

    @initialize()
    def begin(self) -> None:
        self.bench = Bench(self.signers)
        self.highest = (0, 0)
        self.digest: str | None = None

    @rule(
        epoch=st.integers(1, 3),
        revision=st.integers(1, 6),
        digest=st.sampled_from(["11" * 32, "22" * 32, None]),
    )
    def document(self, epoch: int, revision: int, digest: str | None) -> None:
        package = None if digest is None else a_package(digest)
        message = desired(self.signers, revision=revision, epoch=epoch, package=package)
        self.bench.send_desired(message)
        if (epoch, revision) > self.highest:
            self.highest, self.digest = (epoch, revision), digest

    @rule(job=st.integers(0, 6), what=st.sampled_from(["downloaded", "opened", "failed"]))
    def answer(self, job: int, what: str) -> None:
        core, moment = self.bench.core, self.bench.moment
        if what == "downloaded":
            self.bench.obey(core.downloaded(moment, job))
        elif what == "opened":
            self.bench.obey(core.opened(moment, job, decrypted=False))
        else:
            self.bench.obey(core.job_failed(moment, job, failure("network")))

    @rule(job=st.integers(0, 6))
    def verified(self, job: int) -> None:
        digest = self.digest or "33" * 32
        self.bench.obey(self.bench.core.verified(self.bench.moment, job, installed(digest)))

    @rule(job=st.integers(0, 6))
    def activated(self, job: int) -> None:
        self.bench.obey(self.bench.core.activated(self.bench.moment, job, {"engine": "none"}))

    @rule(right=st.booleans())
    def granted(self, right: bool) -> None:
        requests = self.bench.key_requests()
        if requests:
            request_id = requests[-1].request_id if right else uuid4()
            digest = requests[-1].package_digest
            self.bench.send_grant(grant(self.signers, request_id, package_digest=digest))

    @rule()
    def reconnect(self) -> None:
        self.bench.disconnect()
        self.bench.connect()

    @rule(seconds=st.floats(1, 120))
    def wait(self, seconds: float) -> None:
        self.bench.pass_time(seconds)

    @rule()
    def restart(self) -> None:
        old = self.bench
        self.bench = Bench(self.signers, state=old.state, outbox=old.core.outbox, start=False)
        self.bench.disk = dict(old.disk)
        self.bench.moment, self.bench.random = old.moment, old.random
        self.bench.obey(self.bench.core.start(old.moment))

    @invariant()
    def the_position_is_the_highest_ever_sent(self) -> None:
        if hasattr(self, "bench") and self.highest > (0, 0):
            followed = self.bench.state.desired
            assert followed is not None
            assert (followed.epoch, followed.revision) == self.highest

    @invariant()
    def only_the_granted_package_ever_runs(self) -> None:
        if hasattr(self, "bench"):
            opened = {one.digest for one in self.bench.todo if isinstance(one, fx.Open)}
            for effect in self.bench.todo:
                if isinstance(effect, fx.Activate):
                    assert effect.digest in opened


Platform.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPlatform = Platform.TestCase


def test_the_last_good_package_is_taken_back_without_a_download_or_a_key(bench: Bench) -> None:
    bench.connect()
    bench.deploy(desired(bench.signers))
    bench.deploy(desired(bench.signers, revision=2, package=a_package("22" * 32)))
    bench.key_requests()
    fetched = bench.count(fx.Download)
    back = desired(bench.signers, revision=3, package=a_package(), allow_downgrade=True)
    bench.send_desired(back)
    activate = bench.last(fx.Activate)
    assert activate.digest == "11" * 32
    bench.obey(bench.core.activated(bench.moment, activate.job, {"engine": "none"}))
    assert bench.state.running is not None
    assert bench.state.running.digest == "11" * 32
    assert bench.count(fx.Download) == fetched
    assert bench.key_requests() == []
    assert states(bench)[-1] == "succeeded"


def test_a_last_good_package_that_is_damaged_is_fetched_again(bench: Bench) -> None:
    bench.connect()
    bench.deploy(desired(bench.signers))
    bench.deploy(desired(bench.signers, revision=2, package=a_package("22" * 32)))
    fetched = bench.count(fx.Download)
    bench.send_desired(
        desired(bench.signers, revision=3, package=a_package(), allow_downgrade=True)
    )
    job = bench.last(fx.Activate).job
    bench.obey(bench.core.job_failed(bench.moment, job, failure()))
    assert bench.count(fx.Download) == fetched + 1
    assert bench.core.step is Step.DOWNLOAD
