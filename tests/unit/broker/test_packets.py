"""Packets, taken apart from whatever bytes come."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.embedded import packets
from broker.embedded.packets import Packet
from broker.errors import MalformedPacket, OversizePacket, PacketRefused


async def read(data: bytes, limit_bytes: int = 1000) -> Packet:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return await packets.read_packet(reader, limit_bytes)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 65_535])
async def test_a_publish_survives_the_way_through_the_socket(length: int) -> None:
    sent = packets.publish("tg/v1/f/a/down/ack", b"x" * length, packet_id=7)
    heard = packets.decode_publish(await read(sent, 100_000))
    assert heard == ("tg/v1/f/a/down/ack", b"x" * length, 1, False, 7)


def test_at_qos_0_there_is_no_packet_id() -> None:
    assert packets.publish("t", b"p") == b"\x30\x04\x00\x01tp"


async def test_the_limit_is_inclusive() -> None:
    await read(packets.publish("t", b"x" * 97), 100)
    with pytest.raises(OversizePacket):
        await read(packets.publish("t", b"x" * 98), 100)


async def test_a_length_of_five_digits_is_malformed() -> None:
    with pytest.raises(MalformedPacket):
        await read(b"\x30\xff\xff\xff\xff\x01")


async def test_a_packet_that_ends_early_is_the_end_of_the_connection() -> None:
    with pytest.raises(asyncio.IncompleteReadError):
        await read(b"\x30\x05\x00\x01t")


@given(st.binary(max_size=60), st.integers(0, 15))
def test_no_bytes_make_a_decoder_fail_otherwise_than_by_refusing(body: bytes, flags: int) -> None:
    decoders = {
        1: packets.decode_connect,
        3: packets.decode_publish,
        4: packets.decode_packet_id,
        8: packets.decode_subscribe,
        10: packets.decode_unsubscribe,
    }
    for kind, decode in decoders.items():
        try:
            decode(Packet(kind, flags, body))
        except PacketRefused:
            continue


def test_connect_says_what_was_asked_for() -> None:
    body = b"\x00\x04MQTT\x04\x2e\x00\x3c\x00\x02id\x00\x01w\x00\x03bye"
    connect = packets.decode_connect(Packet(1, 0, body))
    assert connect == ("id", True, 60, ("MQTT", 4), "w", b"bye", 1, True)


def test_an_invented_client_id_does_not_pass_for_the_peers() -> None:
    body = b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
    assert packets.decode_connect(Packet(1, 0, body)).client_id == ""


def test_subscribe_lists_filters_in_order() -> None:
    packet = Packet(8, 2, b"\x00\x09\x00\x01a\x00\x00\x02b/\x01")
    assert packets.decode_subscribe(packet) == (9, [("a", 0), ("b/", 1)])
    assert packets.suback(9, [0, 0x80]) == b"\x90\x04\x00\x09\x00\x80"
