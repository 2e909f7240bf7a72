"""Topics as NATS subjects: what the MQTT listener of a NATS server makes of them, exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid6 import uuid7

from tensorguard.protocol import topics
from tensorguard.protocol.errors import BadTopic
from tensorguard.protocol.subjects import (
    front_subject,
    partition_of,
    to_permissions,
    to_subject,
    to_topic,
    topic_of_stored,
)
from tensorguard.protocol.topics import FrontKind, FrontTopic, UpKind

AGENT = uuid7()


@pytest.mark.parametrize("kind", list(UpKind))
def test_every_topic_of_an_agent_has_a_subject_and_back(kind: UpKind) -> None:
    topic = topics.up("hospital-a", AGENT, kind)
    assert to_subject(topic) == f"tg.v1.hospital-a.{AGENT}.up.{kind}"
    assert to_topic(to_subject(topic)) == topic


@given(st.text(max_size=40))
def test_no_text_becomes_a_wildcard_or_a_subject_with_another_topic(topic: str) -> None:
    try:
        subject = to_subject(topic)
    except BadTopic:
        return
    assert not set(subject) & set("*> \t\r\n")
    assert to_topic(subject) == topic


@pytest.mark.parametrize("topic", ["", "a//b", "/a", "a/", "a/+/b", "a/#", "a.b", "a b", "a/>"])
def test_what_nats_would_read_otherwise_is_refused(topic: str) -> None:
    with pytest.raises(BadTopic):
        to_subject(topic)


def test_a_filter_below_a_topic_needs_the_topic_too() -> None:
    own, fleet = topics.subscribable("hospital-a", AGENT)
    assert to_permissions(own) == (
        f"tg.v1.hospital-a.{AGENT}.down",
        f"tg.v1.hospital-a.{AGENT}.down.>",
    )
    assert to_permissions(fleet) == ("tg.v1.hospital-a.all.down", "tg.v1.hospital-a.all.down.>")
    assert to_permissions("tg/v1/+/+/up/+") == ("tg.v1.*.*.up.*",)


# Vectors of draft-eastlake-fnv, appendix C.
@pytest.mark.parametrize(
    ("text", "hash_"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)]
)
def test_a_speakers_partition_is_its_fnv_1a_hash_by_the_number_of_partitions(
    text: str, hash_: int
) -> None:
    assert partition_of(text, 2**32) == hash_
    assert partition_of(text, 16) == hash_ % 16


def test_what_the_stream_stores_has_the_topic_that_was_published_to() -> None:
    assert topic_of_stored(f"tgp.3.v1.hospital-a.{AGENT}.up.event") == topics.up(
        "hospital-a", AGENT, UpKind.EVENT
    )
    told = topic_of_stored(front_subject(3, "front-1", FrontKind.CONNECTED))
    assert topics.parse_up(told) == FrontTopic("front-1", FrontKind.CONNECTED)
