"""Who is given a handshake: the admitted always, the refused ever less."""

from datetime import timedelta

import pytest

from broker.embedded.limits import Limits
from broker.embedded.strangers import Strangers, network_of

HERE, THERE = b"\x7f\x00\x00\x01", b"\x0a\x00\x00\x01"
FIRST_S, MOST_S = 30.0, 300.0


class Clock:
    """Seconds as a test says they are."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def strangers(clock: Clock, **limits: object) -> Strangers:
    few = {"refusals_per_s": 2.0, "refusal_burst": 4, "storm_refusal_burst": 1000}
    return Strangers(Limits(**{**few, **limits}), clock)  # type: ignore[arg-type] # real names


def test_an_address_has_so_many_refusals_and_then_some_a_second(clock: Clock) -> None:
    met = strangers(clock)
    for _ in range(4):
        assert met.may_try(HERE)
        met.refused(HERE)
    assert not met.may_try(HERE)
    assert met.may_try(THERE), "somebody else pays for it"
    clock.now += 0.49
    assert not met.may_try(HERE)
    clock.now += 0.02
    assert met.may_try(HERE)
    met.refused(HERE)
    assert not met.may_try(HERE)


def test_a_thousand_admitted_at_one_address_cost_it_nothing(clock: Clock) -> None:
    met = strangers(clock)
    for _ in range(1000):
        assert met.may_try(HERE)
        met.admitted(HERE)


def test_those_who_were_refused_together_are_paid_for_later(clock: Clock) -> None:
    met = strangers(clock)
    for _ in range(100):
        met.refused(HERE)
    clock.now += 2.4
    assert not met.may_try(HERE)
    clock.now += 0.2
    assert met.may_try(HERE), "an address does not pay for longer than twice its burst"


def test_in_a_storm_an_address_waits_twice_as_long_after_each_refusal(clock: Clock) -> None:
    met = strangers(clock, storm_refusals_per_s=0.0, storm_refusal_burst=1, refusals_per_s=100.0)
    met.refused(THERE)
    waits = []
    for _ in range(6):
        met.refused(HERE)
        began = clock.now
        while not met.may_try(HERE):
            clock.now += 0.5
        waits.append(clock.now - began)
    assert waits == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]


def test_in_a_storm_an_address_where_somebody_was_admitted_goes_on_as_usual(clock: Clock) -> None:
    met = strangers(clock, storm_refusals_per_s=0.0, storm_refusal_burst=1)
    met.admitted(HERE)
    met.refused(THERE)
    met.refused(HERE)
    assert met.may_try(HERE)
    assert not met.may_try(THERE)
    met.kicked(HERE)
    assert not met.may_try(HERE), "the admitted one was revoked"
    met.admitted(HERE)
    assert met.may_try(HERE)
    clock.now += timedelta(minutes=10).total_seconds()
    met.refused(HERE)
    assert not met.may_try(HERE), "that was long ago"


def test_newcomers_are_no_part_of_a_storm(clock: Clock) -> None:
    met = strangers(clock, storm_refusals_per_s=0.0, storm_refusal_burst=1)
    met.refused(THERE)
    assert met.may_try(HERE)


def test_only_so_many_addresses_are_remembered(clock: Clock) -> None:
    met = strangers(clock, sources=3, refusal_burst=1)
    for number in range(4):
        met.refused(bytes([number]))
    assert met.may_try(b"\x00"), "the oldest is forgotten"
    assert not any(met.may_try(bytes([number])) for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:3:4:5:6", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_an_address_is_an_ipv4_address_or_an_ipv6_64(one: str, other: str, same: bool) -> None:
    assert (network_of((one, 1)) == network_of((other, 2))) is same


def test_a_socket_without_a_peer_is_somebody_too() -> None:
    assert network_of(None) == network_of(("", 0)) == b""
