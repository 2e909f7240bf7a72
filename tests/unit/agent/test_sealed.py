"""A package that is sealed at rest: closed by every start, and opened with a grant of its own."""

from uuid import UUID

import msgspec
import pytest

from agent.core import effects as fx
from agent.core.desired import SOON_REQUESTS, Step
from agent.core.errors import JobFailure
from agent.core.state import AgentState, Installed
from tests.unit.agent.builders import Bench, Signers, desired, grant, installed
from tests.unit.agent.builders import package as a_package

SEALED = msgspec.structs.replace(installed(), at_rest="sealed")


def with_sealed(signers: Signers, running: Installed = SEALED) -> AgentState:
    """The state of an agent that ran it when it was stopped."""
    bench = Bench(signers)
    bench.connect()
    bench.deploy(desired(signers))
    bench.state.running = running
    return bench.state


def to_request(bench: Bench) -> UUID:
    """Bring a restarted agent to where it waits for the grant; return the request's id."""
    job = bench.last(fx.Download).job
    bench.obey(bench.core.downloaded(bench.moment, job))
    bench.obey(bench.core.verified(bench.moment, job, SEALED))
    return bench.key_requests()[-1].request_id


def deny(bench: Bench, request_id: UUID) -> None:
    bench.send_grant(
        grant(bench.signers, request_id, kid=None, exp=None, sealed=None, denied="quarantined")
    )


def test_a_plain_package_runs_again_without_a_word(signers: Signers) -> None:
    bench = Bench(signers, state=with_sealed(signers, installed()))
    bench.connect()
    assert bench.count(fx.Download) == 0
    beat = bench.heartbeats()[-1]
    assert beat.package is not None
    assert beat.status == "ok"


def test_a_sealed_one_takes_a_new_grant_at_each_start(signers: Signers) -> None:
    bench = Bench(signers, state=with_sealed(signers))
    bench.connect()
    bench.events()
    request_id = to_request(bench)
    assert bench.count(fx.Open) == 0, "nothing is opened before the grant"
    bench.send_grant(grant(signers, request_id))
    job = bench.last(fx.Open).job
    bench.obey(bench.core.opened(bench.moment, job))
    bench.obey(bench.core.activated(bench.moment, job, {"engine": "none"}))
    assert bench.state.running == SEALED
    assert [e.type for e in bench.events()] == [
        "model.decrypted",
        "model.activated",
        "model.inference",
    ]
    assert bench.core.step is Step.IDLE
    assert bench.state.last_good is None


def test_the_deployment_that_is_over_hears_nothing_new_of_it(signers: Signers) -> None:
    bench = Bench(signers, state=with_sealed(signers))
    bench.connect()
    deny(bench, to_request(bench))
    assert {one.state for one in bench.progress()} == {"succeeded"}
    assert bench.state.stage == "succeeded"


def test_without_a_connection_nothing_is_opened_however_long_it_waits(signers: Signers) -> None:
    bench = Bench(signers, state=with_sealed(signers))
    job = bench.last(fx.Download).job
    bench.obey(bench.core.downloaded(bench.moment, job))
    bench.obey(bench.core.verified(bench.moment, job, SEALED))
    bench.pass_time(3 * 86_400)
    assert bench.count(fx.Open) == bench.count(fx.Activate) == 0
    assert bench.core.step is Step.GRANT
    bench.connect()
    assert bench.key_requests(), "but it asks as soon as it can"


def test_after_a_denial_it_says_that_nothing_runs_and_asks_again_later(signers: Signers) -> None:
    bench = Bench(signers, state=with_sealed(signers))
    bench.connect()
    first = bench.heartbeats()[-1]
    assert first.package is not None, "it is about to run"
    request_id = to_request(bench)
    deny(bench, request_id)
    beat = bench.heartbeats()[-1]
    assert beat.package is None
    assert beat.status == "degraded"
    assert bench.state.reason == "grant-denied: quarantined"
    assert bench.state.running == SEALED
    bench.pass_time(901)
    assert to_request(bench) != request_id
    assert bench.heartbeats()[-1].package is None, "until it is open"


def test_an_unanswered_request_does_not_count_as_running_for_long(signers: Signers) -> None:
    bench = Bench(signers, state=with_sealed(signers))
    bench.connect()
    to_request(bench)
    asked = 1
    while asked <= SOON_REQUESTS:
        bench.pass_time(1)
        asked += len(bench.key_requests())
    bench.pass_time(60)
    assert bench.heartbeats()[-1].package is None


@pytest.mark.parametrize("package", [None, "22" * 32])
def test_what_is_no_longer_desired_stays_closed(signers: Signers, package: str | None) -> None:
    state = with_sealed(signers)
    wanted = None if package is None else a_package(package)
    state.desired = desired(signers, revision=2, package=wanted)
    bench = Bench(signers, state=state)
    bench.connect()
    bench.pass_time(1000)
    assert bench.count(fx.Download) == bench.count(fx.Open) == 0
    assert bench.heartbeats()[-1].package is None


def test_a_newer_document_comes_before_opening_the_old_package_again(signers: Signers) -> None:
    bench = Bench(signers, state=with_sealed(signers))
    bench.connect()
    bench.progress()
    bench.send_desired(desired(signers, revision=2, package=a_package("22" * 32)))
    assert bench.count(fx.CancelJob) == 1
    assert bench.last(fx.Download).digest == "22" * 32
    assert [one.state for one in bench.progress()] == ["notified", "downloading"]


def test_a_new_document_for_the_closed_package_goes_the_whole_way(signers: Signers) -> None:
    bench = Bench(signers, state=with_sealed(signers))
    bench.connect()
    deny(bench, to_request(bench))
    bench.progress()
    bench.deploy(desired(signers, revision=2))
    assert [one.state for one in bench.progress()][-1] == "succeeded"
    beat = bench.heartbeats()[-1]
    assert beat.package is not None
    assert beat.status == "ok"
    assert bench.state.reason is None


def test_a_closed_package_is_nothing_to_fall_back_to(signers: Signers) -> None:
    bench = Bench(signers, state=with_sealed(signers))
    bench.connect()
    bench.send_desired(desired(signers, revision=2, package=a_package("22" * 32)))
    job = bench.last(fx.Download).job
    bench.events()
    bench.obey(bench.core.downloaded(bench.moment, job))
    bench.obey(bench.core.verified(bench.moment, job, installed("22" * 32, seq=2)))
    request = bench.key_requests()[-1]
    bench.send_grant(grant(signers, request.request_id, package_digest="22" * 32))
    bench.obey(bench.core.opened(bench.moment, job))
    crash = JobFailure("device", "inference-failed", "it does not run")
    bench.obey(bench.core.job_failed(bench.moment, job, crash))
    assert "fell-back" not in [event.type for event in bench.events()]
