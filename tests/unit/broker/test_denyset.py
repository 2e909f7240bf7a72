"""Who is denied, and when the set itself cannot be trusted any more."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from uuid6 import uuid7

from broker.denyset import DenySet, Revocation
from tensorguard.pki.identity import AgentIdentity, Peer, ServiceIdentity

SOON = datetime(2030, 1, 1, tzinfo=UTC)


def agent(agent_id: UUID, serial: int = 0xABC) -> Peer:
    return Peer(AgentIdentity("test.example", "fleet", agent_id), serial, "00", SOON)


def test_an_agent_is_denied_whatever_its_certificate() -> None:
    denied, agent_id = DenySet(), uuid7()
    denied.add(Revocation(3, agent_id, None))
    assert denied.denies(agent(agent_id, 1))
    assert denied.denies(agent(agent_id, 2))
    assert not denied.denies(agent(uuid7(), 1))


def test_a_serial_is_denied_whoever_shows_it() -> None:
    denied = DenySet()
    denied.add(Revocation(1, None, "abc"))
    assert denied.denies(agent(uuid7()))
    assert denied.denies(Peer(ServiceIdentity("test.example", "hub"), 0xABC, "00", SOON))
    assert not denied.denies(agent(uuid7(), 0xABD))


def test_only_a_certificate_that_ended_a_week_ago_is_forgotten() -> None:
    denied, agent_id = DenySet(), uuid7()
    denied.add(Revocation(1, agent_id, None))
    denied.add(Revocation(2, None, "aa"))  # nobody knows its end
    denied.add(Revocation(3, None, "cc", SOON + timedelta(seconds=1)))
    denied.add(Revocation(4, None, "bb", SOON))
    denied.forget(SOON + timedelta(days=7))
    assert all(denied.denies_session(None, serial) for serial in ("aa", "bb", "cc"))
    denied.forget(SOON + timedelta(days=7, seconds=1))
    assert not denied.denies_session(None, "bb")
    assert denied.denies_session(None, "cc")
    denied.forget(SOON + timedelta(days=1_000))
    assert [denied.denies_session(None, serial) for serial in ("aa", "cc")] == [True, False]
    assert denied.denies(agent(agent_id))
    assert denied.applied_seq == 4


def test_a_serial_that_is_added_again_and_again_takes_the_room_of_one() -> None:
    denied = DenySet()
    for _ in range(1_000):
        denied.add(Revocation(1, None, "aa", SOON))
    assert len(denied._ends) == 1


def test_applied_seq_is_the_highest_and_never_falls() -> None:
    denied = DenySet()
    for seq in (4, 9, 5):
        denied.add(Revocation(seq, uuid7(), None))
    assert denied.applied_seq == 9


def test_the_set_is_stale_until_it_was_complete_once_and_again_after_its_time() -> None:
    now = 100.0
    denied = DenySet(stale_after=timedelta(seconds=5), monotonic=lambda: now)
    assert denied.is_stale()
    denied.confirm()
    now = 105.0
    assert not denied.is_stale()
    now = 105.1
    assert denied.is_stale()
