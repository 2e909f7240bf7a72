"""How a core comes to believe newer trust bundles, and leaves an older CA."""

from datetime import timedelta

import pytest

from agent.core import effects as fx
from agent.core.settings import Certified
from tensorguard.pki.identity import subject_key_id
from tensorguard.pki.issuer import CertificateAuthority
from tensorguard.protocol.topics import DownKind, UpKind
from tests.unit.agent.builders import AGENT, NOW, TRUST_DOMAIN, Bench, Signers

WITHIN_S = 600


@pytest.fixture
def newer() -> CertificateAuthority:
    return CertificateAuthority.create(TRUST_DOMAIN, NOW + timedelta(seconds=1))


def fetched(bench: Bench, envelope: bytes | None) -> None:
    bench.obey(bench.core.trust_fetched(bench.moment, envelope))


def overlap(signers: Signers, newer: CertificateAuthority, version: int = 2) -> bytes:
    cas = [signers.ca.certificate_pem, newer.certificate_pem]
    return signers.bundle(version, ca=cas, renew_within_s=WITHIN_S)


def certified(bench: Bench, by: CertificateAuthority) -> Certified:
    begin = bench.moment.system
    issuer = subject_key_id(by.certificate)
    return Certified(AGENT, begin, begin + timedelta(days=7), issuer)


def until_key(bench: Bench) -> float:
    """Let time pass until a new key is asked for, and make it; return how many seconds."""
    begun_s, before = bench.moment.monotonic_s, bench.count(fx.MakeKey)
    while bench.count(fx.MakeKey) == before:
        bench.pass_time(1)
        assert bench.moment.monotonic_s < begun_s + 24 * 3600
    request = bench.last(fx.MakeKey).request_id
    bench.obey(bench.core.csr_made(bench.moment, request, "csr"))
    return bench.moment.monotonic_s - begun_s


def test_nothing_is_believed_before_it_is_on_the_disk(bench: Bench) -> None:
    bench.has_disk = False
    fetched(bench, bench.signers.bundle(2))
    assert bench.core.trust.version == 1
    bench.connect()
    assert bench.heartbeats()[-1].has.trust == 1
    fetched(bench, None)  # the write has failed, and the next question finds nobody
    bench.obey(bench.core.trust_kept(bench.moment))
    assert bench.core.trust.version == 1, "what was forgotten is not believed later"


def test_five_versions_are_believed_one_by_one_and_then_it_connects_at_once(bench: Bench) -> None:
    bench.disconnect()
    for _ in range(8):  # refused again and again: the next try is minutes away
        bench.disconnect()
    bench.todo.clear()
    for version in range(2, 7):
        fetched(bench, bench.signers.bundle(version))
        assert bench.core.trust.version == version
        assert bench.last(fx.FetchTrust).version == version + 1
    assert bench.count(fx.Connect) == 0
    fetched(bench, None)
    bench.pass_time(2.5)
    assert bench.count(fx.Connect) == 1


def test_a_server_of_an_unknown_ca_has_the_next_bundle_asked_for_but_not_in_a_loop(
    bench: Bench,
) -> None:
    bench.todo.clear()
    for _ in range(10):
        bench.obey(bench.core.disconnected(bench.moment, disbelieved=True))
    assert bench.count(fx.FetchTrust) == 1
    bench.disconnect()
    assert bench.count(fx.FetchTrust) == 1, "a broker that is only away says nothing of the CA"
    bench.pass_time(6)
    bench.obey(bench.core.disconnected(bench.moment, disbelieved=True))
    assert bench.count(fx.FetchTrust) == 2


def lies(signers: Signers) -> dict[str, bytes]:
    stranger = Signers(NOW)
    good = signers.bundle(2)
    return {
        "of strangers": stranger.bundle(2),
        "too new": signers.bundle(3),
        "the same": signers.bundle(1),
        "of another trust domain": signers.bundle(
            2,
            trust_domain="other.example",
            ca=[CertificateAuthority.create("other.example", NOW).certificate_pem],
        ),
        "changed": good.replace(b'"sig":"', b'"sig":"AAAA', 1),
        "rubbish": b"<html>" * 100,
        "nothing": b"",
        "nested": b"[" * 10_000,
    }


@pytest.mark.parametrize("lie", lies(Signers()))
def test_a_lie_changes_nothing_and_is_reported(bench: Bench, lie: str) -> None:
    bench.connect()
    bench.events()
    bench.todo.clear()
    before = bench.core.trust
    fetched(bench, lies(bench.signers)[lie])
    assert bench.core.trust is before
    assert bench.count(fx.KeepTrust) == 0
    assert bench.count(fx.FetchTrust) == 0, "a liar cannot make it ask in a loop"
    bench.ack(1)
    bench.pass_time(60)
    refused = {one.number: one for one in bench.events() if one.type == "signature.refused"}
    [event] = refused.values()  # one, sent until it is acked
    assert event.details["what"] == "trust"
    fetched(bench, bench.signers.bundle(2))
    assert bench.core.trust.version == 2


def test_a_hint_of_a_newer_bundle_is_followed_and_others_are_not(bench: Bench) -> None:
    bench.connect()
    bench.pass_time(10)
    bench.todo.clear()
    for payload in (b'{"version": 1}', b'{"version": 0}', b'{"version": "9"}', b"rubbish", b""):
        bench.down(DownKind.TRUST_VERSION, payload)
    assert bench.count(fx.FetchTrust) == 0
    for _ in range(50):
        bench.down(DownKind.TRUST_VERSION, b'{"version": 9}')
    assert bench.count(fx.FetchTrust) == 1
    assert bench.last(fx.FetchTrust).version == 2, "one by one, whatever the hint says"


def test_an_older_ca_is_left_within_the_time_that_the_bundle_gives(
    bench: Bench, newer: CertificateAuthority
) -> None:
    bench.connect()
    bench.todo.clear()
    fetched(bench, overlap(bench.signers, newer))
    bench.pass_time(WITHIN_S / 4 - 1)
    assert bench.count(fx.MakeKey) == 0
    assert until_key(bench) <= WITHIN_S * 3 / 4 + 2
    assert len(bench.taken(UpKind.CSR)) == 1
    bench.obey(bench.core.certificate_installed(bench.moment, certified(bench, newer)))
    bench.pass_time(3 * 24 * 3600)
    assert bench.count(fx.MakeKey) == 1, "it is where it should be"


def test_a_certificate_of_the_older_ca_once_more_doubles_the_wait(
    bench: Bench, newer: CertificateAuthority
) -> None:
    bench.connect()
    bench.todo.clear()
    fetched(bench, overlap(bench.signers, newer))
    waits = []
    for _ in range(4):
        waits.append(until_key(bench))
        old = certified(bench, bench.signers.ca)
        bench.obey(bench.core.certificate_installed(bench.moment, old))
        bench.pass_time(61)
        bench.obey(bench.core.disconnected(bench.moment, renewed=True))
        bench.connect()
    for number, wait_s in enumerate(waits):
        longest = WITHIN_S * 2**number
        assert longest / 4 - 70 <= wait_s <= longest + 10


def test_a_bundle_that_leaves_out_a_newer_ca_stops_the_move(
    bench: Bench, newer: CertificateAuthority
) -> None:
    bench.connect()
    bench.todo.clear()
    fetched(bench, overlap(bench.signers, newer))
    fetched(bench, bench.signers.bundle(3))
    bench.pass_time(2 * WITHIN_S)
    assert bench.count(fx.MakeKey) == 0


def test_after_a_restart_the_move_goes_on(bench: Bench, newer: CertificateAuthority) -> None:
    signers = bench.signers
    restarted = Bench(signers, start=False)
    restarted.obey(restarted.core.start(restarted.moment))
    restarted.connect()
    fetched(restarted, overlap(signers, newer))
    restarted.todo.clear()
    restarted.obey(restarted.core.start(restarted.moment))
    assert until_key(restarted) <= WITHIN_S + 1
