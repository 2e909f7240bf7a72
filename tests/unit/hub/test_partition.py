"""One partition's intake: bounded, gapless, and acked only up to what was committed."""

from datetime import UTC, datetime

import pytest

from hub.nats.partition import PartitionIntake
from hub.uplink import Uplink

SUBJECT = b"tgp.3.v1.hospital-a.0195a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b.up.heartbeat"
TOPIC = "tg/v1/hospital-a/0195a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b/up/heartbeat"
AT_NS = 1_772_000_000_123_456_000


class Server:
    """What an intake asks of a server, and a clock."""

    def __init__(self, window: int = 100) -> None:
        self.asked: list[int] = []
        self.delivered: list[Uplink] = []
        self.broken: list[str] = []
        self.now_s = 0.0
        self.intake = PartitionIntake(
            3,
            7,
            window=window,
            pull=self.asked.append,
            deliver=self.delivered.append,
            broken=self.broken.append,
            now_s=lambda: self.now_s,
        )
        self.intake.ask()

    def send(self, sequence: int, delivery: int, headers: bytes | None = None) -> None:
        self.intake.take(SUBJECT, reply(sequence, delivery), b"{}", headers)

    def say(self, status: bytes) -> None:
        self.intake.take(b"_INBOX.x", b"", b"", b"NATS/1.0 " + status + b"\r\n\r\n")


def reply(sequence: int, delivery: int, domain: bytes = b"") -> bytes:
    return b"$JS.ACK.%sUPLINKS.hub-3-7.1.%d.%d.%d.5" % (domain, sequence, delivery, AT_NS)


def test_a_message_is_what_was_published_with_the_time_of_the_server() -> None:
    server = Server()
    server.send(12, 1, b"NATS/1.0\r\nNmqtt-Pub: 1\r\n\r\n")
    at = datetime.fromtimestamp(AT_NS / 1e9, UTC)
    assert server.delivered == [Uplink(TOPIC, b"{}", at, (3, 7, 12))]


def test_a_server_in_a_domain_is_understood() -> None:
    server = Server()
    server.intake.take(SUBJECT, reply(12, 1, b"edge.ACCOUNT.") + b".random", b"{}", None)
    assert [one.receipt for one in server.delivered] == [(3, 7, 12)]


def test_no_more_is_asked_for_than_there_is_room_for() -> None:
    server = Server(window=100)
    assert server.asked == [100]
    for number in range(1, 101):
        server.send(number, number)
    server.intake.hand_out(60)
    assert server.intake.ack(20) == reply(20, 20)
    assert server.asked == [100, 20]
    assert server.intake.ack(25) == reply(25, 25)
    assert server.asked == [100, 20], "a few are not worth a request, while one is open"
    assert server.intake.ack(60) == reply(60, 60)
    assert server.asked == [100, 20, 40]
    assert server.intake.held == 40


def test_a_gap_ends_the_consumer_and_nothing_behind_it_is_used() -> None:
    server = Server()
    server.send(12, 1)
    server.send(19, 3)
    server.send(20, 4)
    assert [one.receipt[2] for one in server.delivered] == [12]
    assert server.broken == ["delivery 3 instead of 2"]


def test_what_is_delivered_again_is_not_stored_again() -> None:
    server = Server()
    for number in (1, 2, 3):
        server.send(number, number)
    server.intake.hand_out(2)
    server.intake.ack(1)
    server.send(2, 4)  # held here, and not committed yet
    server.send(1, 5)  # committed, but the ack was lost
    server.send(4, 6)
    assert [one.receipt[2] for one in server.delivered] == [1, 2, 3, 4]
    assert server.intake.last_ack == reply(1, 5)
    assert server.broken == []


@pytest.mark.parametrize(
    ("status", "asked", "breaks"),
    [
        (b"100 Idle Heartbeat", [100], False),
        (b"408 Request Timeout\r\nNats-Pending-Messages: 99", [100, 99], False),
        (b"409 Message Size Exceeds MaxBytes\r\nNats-Pending-Messages: 99", [100, 99], False),
        (b"409 Consumer Deleted", [100], True),
        (b"409 Leadership Change", [100], True),
        (b"409 Server Shutdown\r\nNats-Pending-Messages: 99", [100], True),
        (b"503", [100], True),
    ],
)
def test_word_of_a_request_renews_it_or_ends_the_consumer(
    status: bytes, asked: list[int], breaks: bool
) -> None:
    server = Server()
    server.send(1, 1)
    server.say(status)
    assert (server.asked, bool(server.broken)) == (asked, breaks)


def test_a_closed_partition_acks_what_is_being_stored_and_forgets_the_rest() -> None:
    server = Server()
    for number in (1, 2, 3, 4):
        server.send(number, number)
    server.intake.hand_out(2)
    server.intake.close()
    assert server.intake.in_flight
    server.send(5, 5)
    assert server.intake.ack(2) == reply(2, 2)
    assert not server.intake.in_flight
    assert (server.intake.held, server.asked) == (0, [100])


def test_silence_is_noticed_only_where_something_was_asked_for() -> None:
    server = Server(window=1)
    server.now_s = 20.0
    assert server.intake.waits_for_s == 20.0
    server.send(1, 1)
    server.now_s = 90.0
    assert server.intake.waits_for_s == 0.0, "there is no room, so nothing is asked for"
    server.intake.hand_out(1)
    server.intake.ack(1)
    assert server.intake.waits_for_s == 0.0
