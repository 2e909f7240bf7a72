"""Sorting a batch: everything lands somewhere, whatever it is."""

import hashlib
import json
from dataclasses import fields
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.batch import Batch, condemn, sort
from hub.uplink import Uplink
from tensorguard.protocol.topics import FrontKind, UpKind
from tests.unit.hub.builders import AGENT_ID, FLEET, LOG_ID, NOW, uplink

LISTS = {
    UpKind.HEARTBEAT: "heartbeats",
    UpKind.EVENT: "events",
    UpKind.PROGRESS: "progress",
    UpKind.KEY_REQUEST: "key_requests",
    UpKind.CSR: "csrs",
    UpKind.REPLY: "replies",
    UpKind.WILL: "wills",
    FrontKind.CONNECTED: "connected",
    FrontKind.DISCONNECTED: "disconnected",
    FrontKind.DENIED: "denied",
}


def sizes(batch: Batch) -> dict[str, int]:
    lists = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: len(items) for name, items in lists.items() if items}


@pytest.mark.parametrize(("kind", "name"), LISTS.items())
def test_each_kind_has_its_list(kind: UpKind | FrontKind, name: str) -> None:
    assert sizes(sort([uplink(kind)])) == {name: 1}


def test_what_an_agent_sends_is_known_by_its_topic() -> None:
    batch = sort([uplink(UpKind.PROGRESS, agent_id=AGENT_ID, fleet=FLEET)])
    [one] = batch.progress
    assert (one.agent_id, one.fleet, one.received_at) == (AGENT_ID, FLEET, NOW)


def test_messages_of_a_kind_stay_in_order() -> None:
    batch = sort([uplink(UpKind.HEARTBEAT, seq=seq) for seq in (3, 1, 2)])
    assert [one.message.seq for one in batch.heartbeats] == [3, 1, 2]


topics = st.one_of(
    st.sampled_from([uplink(kind).topic for kind in LISTS]),
    st.lists(
        st.sampled_from(["tg", "v1", FLEET, str(AGENT_ID), "_front", "up", "event", "denied", ""]),
        max_size=8,
    ).map("/".join),
    st.text(max_size=60),
    st.text(st.characters(categories=["Cs", "Cc", "Ll"]), max_size=20),
)
payloads = st.one_of(
    st.sampled_from([uplink(kind).payload for kind in LISTS]),
    st.binary(max_size=80),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    ).map(lambda value: json.dumps(value).encode()),
    st.integers(0, 70_000).map(lambda size: b"[" * size),
    st.fixed_dictionaries(
        {
            "log_id": st.just(str(LOG_ID)),
            "number": st.integers(-1, 2**53),
            "oldest": st.integers(-1, 2**53),
        }
    ).map(lambda value: json.dumps(value).encode()),
)


@given(st.lists(st.tuples(topics, payloads), max_size=10))
def test_nothing_hostile_raises_and_every_message_lands_somewhere(
    messages: list[tuple[str, bytes]],
) -> None:
    batch = sort([Uplink(topic, payload, NOW) for topic, payload in messages])
    assert sum(sizes(batch).values()) == len(messages)
    for letter in batch.dead_letters:
        text = letter.topic + letter.reason + letter.kind
        assert "\x00" not in text
        assert text.encode()  # UTF-8 takes it: no half surrogate pair
        assert len(letter.payload) <= 4096
        assert letter.code
    for event in batch.events:
        assert 0 <= event.header.number - event.header.oldest < 10_000


@given(topics, payloads, st.integers(1, 3), st.text(max_size=600))
def test_a_condemned_message_can_be_kept_whatever_it_was(
    topic: str, payload: bytes, refused: int, why: str
) -> None:
    batch = condemn(Uplink(topic, payload, NOW), refused, why)
    kept = sizes(batch)
    assert kept in ({"dead_letters": 1}, {"events": 1})
    for text in chain((o.reason for o in batch.dead_letters), (o.reason for o in batch.events)):
        assert "\x00" not in text
        assert len(text) <= 500


def test_a_condemned_event_keeps_its_number_and_becomes_malformed() -> None:
    batch = condemn(uplink(UpKind.EVENT, number=9, oldest=9), 1, "the database says no")
    [event] = batch.events
    assert event.event is None
    assert (event.header.log_id, event.header.number) == (LOG_ID, 9)
    assert event.reason == "the database says no"
    assert sizes(condemn(uplink(UpKind.EVENT), 2, "still no")) == {"dead_letters": 1}


def test_a_condemned_heartbeat_becomes_a_dead_letter_of_its_agent() -> None:
    [letter] = condemn(uplink(UpKind.HEARTBEAT), 1, "the database says no").dead_letters
    assert (letter.agent_id, letter.fleet, letter.kind) == (AGENT_ID, FLEET, "heartbeat")
    assert (letter.code, letter.reason) == ("poison", "the database says no")


def test_a_dead_letter_says_what_it_was_and_why_and_keeps_4_kib() -> None:
    large = b"{" + b"x" * 70_000
    topic = uplink(UpKind.PROGRESS).topic
    [letter] = sort([Uplink(topic, large, NOW)]).dead_letters
    assert (letter.agent_id, letter.fleet, letter.kind) == (AGENT_ID, FLEET, "progress")
    assert letter.payload == large[:4096]
    assert letter.payload_bytes == len(large)
    assert letter.payload_sha256 == hashlib.sha256(large).digest()
    assert (letter.code, letter.topic) == ("message-too-large", topic)


def test_a_foreign_topic_is_a_dead_letter_of_nobody() -> None:
    [letter] = sort([Uplink("somewhere/else\x00", b"{}", NOW)]).dead_letters
    assert (letter.agent_id, letter.fleet, letter.kind) == (None, None, "unknown")
    assert letter.code == "bad-topic"


def test_an_event_with_a_bad_body_keeps_its_number_and_says_why() -> None:
    bad = uplink(UpKind.EVENT, type="agent.bribed")
    [event] = sort([bad]).events
    assert event.event is None
    assert event.header.number == 5
    assert "agent.bribed" in event.reason
    assert event.payload == bad.payload
    assert event.sha256 == hashlib.sha256(bad.payload).digest()


@pytest.mark.parametrize(
    ("number", "oldest", "is_event"),
    [
        (1, 1, True),
        (10_000, 1, True),
        (10_001, 1, False),
        (2**53 - 1, 2**53 - 10_000, True),
        (2**53 - 1, 1, False),
        (4, 5, False),
    ],
)
def test_a_number_that_no_outbox_can_hold_is_a_dead_letter(
    number: int, oldest: int, is_event: bool
) -> None:
    batch = sort([uplink(UpKind.EVENT, number=number, oldest=oldest)])
    assert sizes(batch) == ({"events": 1} if is_event else {"dead_letters": 1})
