"""An agent that was off past its certificate's end, and devices whose clock is wrong."""

from datetime import UTC, datetime, timedelta

from agent.core import effects as fx
from agent.core.settings import Certified
from tensorguard.protocol import codec
from tensorguard.protocol.messages import Ack, Boot
from tensorguard.protocol.topics import DownKind
from tests.unit.agent.builders import AGENT, NOW, Bench, Signers, desired

DAY_S = 86_400.0


def expired(signers: Signers, system: datetime = NOW + timedelta(days=9)) -> Bench:
    """An agent that starts after its certificate's end, with its new key made."""
    bench = Bench(signers, system=system)
    bench.obey(bench.core.tick(bench.moment))
    made = bench.last(fx.MakeKey)
    bench.obey(bench.core.csr_made(bench.moment, made.request_id, "a csr"))
    return bench


def let_ask(bench: Bench, seconds: float) -> int:
    before = bench.count(fx.AskRecovery)
    bench.pass_time(seconds)
    return bench.count(fx.AskRecovery) - before


def answer(bench: Bench, *, refused: bool = False) -> None:
    request_id = bench.last(fx.AskRecovery).request_id
    bench.obey(bench.core.recovery_answered(bench.moment, request_id, None, refused=refused))


def test_after_its_certificates_end_an_agent_asks_and_installs_what_it_is_given(
    signers: Signers,
) -> None:
    bench = expired(signers)
    assert let_ask(bench, 60) == 1
    asked = bench.last(fx.AskRecovery)
    assert asked.csr == "a csr"
    bench.obey(bench.core.recovery_answered(bench.moment, asked.request_id, "a certificate"))
    installed = bench.last(fx.InstallCertificate)
    assert (installed.certificate, installed.identity) == ("a certificate", AGENT)
    bench.disconnect()
    now = bench.moment.system
    new = Certified(AGENT, now, now + timedelta(days=7))
    bench.obey(bench.core.certificate_installed(bench.moment, new))
    bench.pass_time(0.1)
    assert bench.last(fx.Connect).certificate == "next"
    assert let_ask(bench, 3600) == 0


def test_an_agent_that_waits_asks_ever_more_rarely_with_the_same_csr(signers: Signers) -> None:
    bench = expired(signers)
    counts = []
    for _ in range(3):
        asked = 0
        for _ in range(60):
            if let_ask(bench, 60):
                asked += 1
                answer(bench)
        counts.append(asked)
    assert counts[0] > counts[-1]
    assert counts[-1] <= 6
    assert {one.csr for one in bench.todo if isinstance(one, fx.AskRecovery)} == {"a csr"}


def test_a_refused_agent_asks_again_hours_later(signers: Signers) -> None:
    bench = expired(signers)
    assert let_ask(bench, 60) == 1
    answer(bench, refused=True)
    assert let_ask(bench, 3 * 3600 - 60) == 0
    assert let_ask(bench, 6 * 3600 + 60) >= 1


def test_an_answer_that_never_comes_is_asked_for_again(signers: Signers) -> None:
    bench = expired(signers)
    assert let_ask(bench, 300) >= 2


def test_an_agent_that_is_connected_or_whose_certificate_is_good_asks_nobody(
    bench: Bench, signers: Signers
) -> None:
    assert let_ask(bench, 4 * DAY_S) == 0
    other = expired(signers)
    other.connect()
    assert let_ask(other, DAY_S) == 0


def test_a_device_in_1970_believes_by_its_floor_and_renews_in_time(signers: Signers) -> None:
    bench = Bench(signers, system=datetime(1970, 1, 1, 0, 1, tzinfo=UTC))
    bench.connect()
    floor = bench.state.time_floor
    assert floor == NOW - timedelta(minutes=5)
    bench.send_desired(desired(signers))
    assert bench.count(fx.Download) == 1
    # It cannot tell the time, but how much of it has passed.
    bench.pass_time(5.1 * DAY_S)
    assert bench.state.time_floor - floor > timedelta(days=5)
    assert bench.count(fx.MakeKey) >= 1


def test_a_device_in_1970_that_is_refused_again_and_again_asks_to_come_back(
    signers: Signers,
) -> None:
    bench = Bench(signers, system=datetime(1970, 1, 1, 0, 1, tzinfo=UTC))
    for _ in range(3):
        bench.disconnect()
        bench.pass_time(10)
    bench.obey(bench.core.csr_made(bench.moment, bench.last(fx.MakeKey).request_id, "a csr"))
    assert let_ask(bench, 60) == 1


def test_a_device_in_2099_believes_nothing_and_nothing_of_it_stays(signers: Signers) -> None:
    bench = Bench(signers, system=datetime(2099, 1, 1, tzinfo=UTC))
    bench.connect()
    bench.send_desired(desired(signers))
    assert bench.count(fx.Download) == 0
    assert bench.state.time_floor < NOW + timedelta(days=1)
    after = Bench(signers, state=bench.state, system=NOW + timedelta(minutes=1))
    after.connect()
    after.send_desired(desired(signers))
    assert after.count(fx.Download) == 1


def greet(bench: Bench, boot: Boot) -> None:
    ack = Ack(log_id=bench.core.outbox.log_id, through=0, boot=boot)
    bench.down(DownKind.ACK, codec.encode(ack))


def test_a_restored_image_counts_its_boots_on_from_what_the_platform_knows(
    bench: Bench,
) -> None:
    bench.connect()
    [first] = bench.heartbeats()
    assert first.boot_count == 1
    greet(bench, Boot(id=bench.new_id(), count=7))
    [second] = bench.heartbeats()
    assert (second.boot_count, second.boot_id) == (8, first.boot_id)
    assert bench.state.boot_count == 8
    greet(bench, Boot(id=first.boot_id, count=8))
    greet(bench, Boot(id=bench.new_id(), count=3))
    assert bench.heartbeats() == []
