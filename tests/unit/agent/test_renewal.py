from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from agent.core import effects as fx
from agent.core.settings import Certified
from tensorguard.pki.identity import AgentIdentity
from tensorguard.protocol import codec, topics
from tensorguard.protocol.messages import CertificateIssued, Command, CsrRequest, Reply
from tensorguard.protocol.topics import DownKind, UpKind
from tests.unit.agent.builders import AGENT, NOW, Bench, Signers

DAY_S = 86_400.0


def requests(bench: Bench) -> list[CsrRequest]:
    return [codec.decode(CsrRequest, one) for one in bench.taken(UpKind.CSR)]


def answer(bench: Bench, **fields: Any) -> list[fx.Effect]:
    message = CertificateIssued(
        agent_id=AGENT.agent_id,
        trust_domain=AGENT.trust_domain,
        issued_at=bench.moment.system,
        expires_at=bench.moment.system + timedelta(days=1),
        **fields,
    )
    return bench.down(DownKind.CERTIFICATE, bench.signers.sign(message))


def to_request(bench: Bench) -> CsrRequest:
    bench.connect()
    bench.pass_time(5.1 * DAY_S)
    made = bench.last(fx.MakeKey)
    bench.obey(bench.core.csr_made(bench.moment, made.request_id, "a csr"))
    return requests(bench)[0]


def test_renewal_begins_at_two_thirds_of_the_life_with_a_new_key(bench: Bench) -> None:
    bench.connect()
    bench.pass_time(7 * DAY_S * (2 / 3 - 0.051))
    assert bench.count(fx.MakeKey) == 0
    bench.pass_time(7 * DAY_S * 0.102)
    assert bench.count(fx.MakeKey) >= 1


def test_the_request_is_repeated_with_the_same_id_until_it_is_answered(bench: Bench) -> None:
    first = to_request(bench)
    bench.pass_time(1200)
    again = requests(bench)
    assert len(again) >= 2
    assert {(one.request_id, one.csr) for one in again} == {(first.request_id, "a csr")}
    answer(bench, request_id=first.request_id, certificate="a certificate")
    assert bench.last(fx.InstallCertificate).certificate == "a certificate"
    bench.pass_time(1200)
    assert requests(bench) == []


def test_a_certificate_for_another_request_is_not_installed(bench: Bench) -> None:
    to_request(bench)
    answer(bench, request_id=uuid4(), certificate="a certificate")
    assert bench.count(fx.InstallCertificate) == 0


def test_the_new_certificate_is_used_by_connecting_again_without_a_back_off(bench: Bench) -> None:
    first = to_request(bench)
    answer(bench, request_id=first.request_id, certificate="a certificate")
    begin = bench.moment.system
    bench.todo.clear()
    new = Certified(AGENT, begin, begin + timedelta(days=7))
    bench.obey(bench.core.certificate_installed(bench.moment, new))
    assert bench.state.renewal is None
    bench.pass_time(61)
    assert bench.last(fx.Disconnect).reason == "renewed"
    assert bench.obey(bench.core.disconnected(bench.moment, renewed=True)) == [fx.Connect("next")]
    bench.connect()
    bench.pass_time(4 * DAY_S)
    assert bench.count(fx.MakeKey) == 0, "the next renewal counts from the new certificate"


def test_an_open_request_survives_a_restart(bench: Bench, signers: Signers) -> None:
    first = to_request(bench)
    after = Bench(signers, state=bench.state, system=bench.moment.system)
    after.connect()
    assert [one.request_id for one in requests(after)] == [first.request_id]


def test_a_denial_is_tried_again_much_later_with_another_key(bench: Bench) -> None:
    first = to_request(bench)
    bench.todo.clear()
    answer(bench, request_id=first.request_id, denied="quarantined")
    bench.pass_time(1700)
    assert bench.count(fx.MakeKey) == 0
    bench.pass_time(2 * 3600)
    assert bench.last(fx.MakeKey).request_id != first.request_id


def test_a_connection_that_is_not_there_does_not_use_up_the_attempts(bench: Bench) -> None:
    bench.pass_time(5.1 * DAY_S)
    made = bench.last(fx.MakeKey)
    bench.obey(bench.core.csr_made(bench.moment, made.request_id, "a csr"))
    bench.pass_time(DAY_S)
    assert requests(bench) == []
    bench.connect()
    assert len(requests(bench)) == 1
    assert bench.moment.system > NOW


def renewed(bench: Bench, *, fleet: str = AGENT.fleet) -> Certified:
    """Have a certificate installed, and the agent leave to try it."""
    begin = bench.moment.system
    identity = AgentIdentity(AGENT.trust_domain, fleet, AGENT.agent_id)
    new = Certified(identity, begin, begin + timedelta(days=7))
    bench.obey(bench.core.certificate_installed(bench.moment, new))
    bench.pass_time(61)
    bench.todo.clear()
    bench.obey(bench.core.disconnected(bench.moment, renewed=True))
    return new


def test_the_old_certificate_is_kept_until_the_new_one_has_connected(bench: Bench) -> None:
    bench.connect()
    renewed(bench)
    assert bench.last(fx.Connect).certificate == "next"
    assert bench.count(fx.PromoteCertificate) == 0
    bench.connect()
    assert bench.count(fx.PromoteCertificate) == 1
    bench.disconnect()
    bench.pass_time(400)
    assert bench.last(fx.Connect).certificate == "current"


def test_a_new_certificate_that_is_refused_alternates_with_the_old_and_is_tried_again(
    bench: Bench,
) -> None:
    bench.connect()
    renewed(bench)
    tried = [bench.last(fx.Connect).certificate]
    for _ in range(3):
        bench.disconnect()
        bench.pass_time(400)
        tried.append(bench.last(fx.Connect).certificate)
    assert tried == ["next", "current", "next", "current"]
    bench.connect()
    bench.todo.clear()
    bench.pass_time(5401)
    assert bench.last(fx.Disconnect).reason == "renewed"
    bench.obey(bench.core.disconnected(bench.moment, renewed=True))
    assert bench.last(fx.Connect).certificate == "next"


def order(bench: Bench, fleet: object, command_id: UUID | None = None) -> None:
    now = bench.moment.system
    command = Command(
        agent_id=AGENT.agent_id,
        trust_domain=AGENT.trust_domain,
        issued_at=now,
        expires_at=now + timedelta(hours=1),
        command_id=command_id or uuid4(),
        kind="move",
        arguments={"fleet": fleet},
    )
    bench.down(DownKind.COMMAND, bench.signers.sign(command))


def test_an_order_to_move_asks_once_for_a_certificate_of_the_other_fleet(bench: Bench) -> None:
    bench.connect()
    command_id = uuid4()
    for _ in range(3):
        order(bench, "hospital-b", command_id)
    assert bench.count(fx.MakeKey) == 1
    bench.obey(bench.core.csr_made(bench.moment, bench.last(fx.MakeKey).request_id, "a csr"))
    [request] = requests(bench)
    assert (request.reason, request.csr) == ("move", "a csr")
    answer(bench, request_id=request.request_id, certificate="a certificate")
    install = bench.last(fx.InstallCertificate)
    assert install.identity == AgentIdentity(AGENT.trust_domain, "hospital-b", AGENT.agent_id)


def test_a_move_that_was_begun_is_gone_on_with_after_a_restart(
    bench: Bench, signers: Signers
) -> None:
    bench.connect()
    order(bench, "hospital-b")
    after = Bench(signers, state=bench.state, system=bench.moment.system)
    after.connect()
    after.pass_time(5.2 * DAY_S)  # its key was not made: at the latest, the renewal makes one
    after.obey(after.core.csr_made(after.moment, after.last(fx.MakeKey).request_id, "a csr"))
    assert {one.reason for one in requests(after)} == {"move"}


def test_after_a_move_everything_is_of_the_other_fleet_and_its_config_is_taken(
    bench: Bench,
) -> None:
    bench.connect()
    bench.published.clear()
    renewed(bench, fleet="hospital-b")
    assert all("hospital-b" in one for one in (*bench.core.filters, bench.core.will.topic))
    bench.connect()
    beat = topics.up("hospital-b", AGENT.agent_id, UpKind.HEARTBEAT)
    assert [topic for topic, _ in bench.published].count(beat) == 1
    assert bench.state.config.revision == 0


def test_a_move_that_does_not_come_about_leaves_the_agent_in_its_fleet(bench: Bench) -> None:
    bench.connect()
    renewed(bench, fleet="hospital-b")
    bench.disconnect()
    bench.pass_time(400)
    bench.published.clear()
    bench.connect()
    assert bench.heartbeats() != []
    assert bench.count(fx.PromoteCertificate) == 0


def test_an_order_to_nowhere_is_refused(bench: Bench) -> None:
    bench.connect()
    for fleet in ("../b", "", None, 7):
        order(bench, fleet)
    order(bench, AGENT.fleet)
    replies = [codec.decode(Reply, one).state for one in bench.taken(UpKind.REPLY)]
    assert replies == ["refused"] * 4 + ["acknowledged"]
    assert bench.count(fx.MakeKey) == 0
