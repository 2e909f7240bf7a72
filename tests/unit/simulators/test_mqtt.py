"""The lean MQTT codec, with the specification's bytes as the judge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators import mqtt


def test_a_connect_is_spelt_as_the_specification_says() -> None:
    packet = mqtt.encode_connect("abc", keep_alive_s=60, will_topic="w", will_payload=b"\x01")
    assert packet == (
        b"\x10\x15"  # CONNECT, 21 bytes
        b"\x00\x04MQTT\x04"  # protocol name and level 4
        b"\x0e"  # will QoS 1, will flag, clean session; no retain
        b"\x00\x3c"  # keep-alive 60
        b"\x00\x03abc\x00\x01w\x00\x01\x01"
    )


def test_a_publish_is_at_qos_1_and_not_retained() -> None:
    assert mqtt.encode_publish(7, "a/b", b"xy") == b"\x32\x09\x00\x03a/b\x00\x07xy"


def test_a_subscribe_asks_for_qos_0() -> None:
    assert mqtt.encode_subscribe(1, ("a", "b/#")) == b"\x82\x0c\x00\x01\x00\x01a\x00\x00\x03b/#\x00"


@given(
    messages=st.lists(
        st.tuples(st.text(min_size=1, max_size=40), st.binary(max_size=300)), max_size=6
    ),
    data=st.data(),
)
def test_packets_are_found_however_the_stream_is_cut(
    messages: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(mqtt.encode_publish(1, topic, payload) for topic, payload in messages)
    buffer, found, position = bytearray(), [], 0
    while position < len(stream):
        end = position + data.draw(st.integers(1, 200))
        buffer += stream[position:end]
        position = end
        found += [mqtt.decode_publish(packet) for packet in mqtt.take_packets(buffer)]
    assert found == messages
    assert not buffer


@pytest.mark.parametrize(
    "stream",
    [b"\x30\xff\xff\xff\xff\x01", b"\x30\xff\xff\xff\x7f"],
    ids=["five bytes", "too large"],
)
def test_a_length_that_cannot_be_is_refused(stream: bytes) -> None:
    with pytest.raises(mqtt.BadPacket):
        list(mqtt.take_packets(bytearray(stream)))


@pytest.mark.parametrize("body", [b"", b"\x00\x05ab", b"\x00\x01\xff"])
def test_a_publish_that_is_broken_is_refused(body: bytes) -> None:
    with pytest.raises(mqtt.BadPacket):
        mqtt.decode_publish(mqtt.Packet(mqtt.PUBLISH, body))
