"""The map of sessions, made of events and lists that overlap."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from broker.denyset import Revocation
from broker.nats.sessions import Place, Sessions
from broker.session import Session
from tensorguard.pki.identity import AgentIdentity

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HERE = Place("N1", 7)


def session(agent_id: UUID | None = None, serial: str = "1a") -> Session:
    agent = AgentIdentity("test.example", "hospital-a", agent_id or uuid4())
    return Session(agent, serial, "10.0.0.7", NOW)


def test_a_revoked_agent_is_found_at_every_place() -> None:
    sessions, one = Sessions(), session()
    places = [HERE, Place("N2", 7)]
    for place in places:
        sessions.add(place, one)
    sessions.add(Place("N2", 8), session(serial="2b"))
    assert sessions.list_denied(Revocation(1, one.agent.agent_id, None)) == places
    assert sessions.list_denied(Revocation(2, None, "1a")) == places
    assert sessions.list_denied(Revocation(3, uuid4(), "ff")) == []


def test_what_has_ended_is_found_for_its_last_words_and_is_not_live() -> None:
    sessions, one = Sessions(), session()
    sessions.add(HERE, one)
    assert sessions.remove(HERE) == one
    assert sessions.find(HERE) == one
    assert not sessions.is_live(HERE)
    assert not sessions.has_agent(one.agent.agent_id)
    assert sessions.remove(HERE) is None


def test_the_ended_are_not_remembered_for_ever() -> None:
    sessions = Sessions()
    for cid in range(1500):
        sessions.add(Place("N1", cid), session())
        sessions.remove(Place("N1", cid))
    assert sessions.find(Place("N1", 0)) is None
    assert sessions.find(Place("N1", 1499)) is not None


def test_a_list_adds_what_no_event_told_and_removes_what_is_not_in_it() -> None:
    sessions, old, new = Sessions(), session(), session()
    sessions.add(HERE, old)
    sessions.add(Place("N2", 1), session())
    sessions.begin()
    difference = sessions.settle("N1", {Place("N1", 9): new})
    assert difference.appeared == {Place("N1", 9): new}
    assert difference.vanished == {HERE: old}
    assert sessions.list_servers() == {"N1", "N2"}


def test_what_an_event_tells_while_the_list_is_made_counts_for_more() -> None:
    sessions, came, went = Sessions(), session(), session()
    sessions.add(HERE, went)
    sessions.begin()
    sessions.remove(HERE)
    sessions.add(Place("N1", 9), came)
    difference = sessions.settle("N1", {HERE: went})
    assert not difference.appeared
    assert not difference.vanished
    assert not sessions.is_live(HERE)
    assert sessions.is_live(Place("N1", 9))
