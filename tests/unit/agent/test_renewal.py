from datetime import timedelta
from typing import Any
from uuid import uuid4

from agent.core import effects as fx
from tensorguard.protocol import codec
from tensorguard.protocol.messages import CertificateIssued, CsrRequest
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
    bench.obey(bench.core.certificate_installed(bench.moment, begin, begin + timedelta(days=7)))
    assert bench.state.renewal is None
    bench.pass_time(61)
    assert bench.last(fx.Disconnect).reason == "renewed"
    assert bench.obey(bench.core.disconnected(bench.moment, renewed=True)) == [fx.Connect()]
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
