"""One partition that this hub reads: what it has asked for, what it holds, what it may ack.

Acks are of AckPolicy ALL, one a batch instead of one a message: with replicas each is agreed upon
by the servers. That is safe because a consumer belongs to one epoch of one partition: only the hub
that holds this epoch reads it, its deliveries are numbered from 1 without a gap, and the first gap
ends it before anything behind the gap is used. So all that is below an acked message was received,
and was committed, since batches are committed in the order in which they came.
"""

import re
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from hub.uplink import Uplink
from tensorguard.protocol.subjects import topic_of_stored

log = structlog.get_logger()

_STATUS = b"NATS/1.0 "
_LEFT = re.compile(rb"Nats-Pending-Messages: (\d+)")
_HEARTBEAT = b"100"
# A pull request that ends so has done its work; any other end says that the consumer is not well.
_HARMLESS = (b"404", b"408", b"409 Batch Completed", b"409 Message Size Exceeds MaxBytes")


class PartitionIntake:
    """The state of one partition in one epoch; no I/O but by the functions that it is given."""

    def __init__(
        self,
        number: int,
        epoch: int,
        *,
        window: int,
        pull: Callable[[int], None],
        deliver: Callable[[Uplink], None],
        broken: Callable[[str], None],
        now_s: Callable[[], float],
    ) -> None:
        """`window` is how many messages may be asked for or held at once.

        `pull` asks for so many, `deliver` takes one, `broken` hears why the consumer is of no use.
        """
        self.number = number
        self.epoch = epoch
        self.window = window
        self._pull = pull
        self._deliver = deliver
        self._broken = broken
        self._now_s = now_s
        self._asked = 0
        self._next_delivery = 1
        self._last_sequence = 0
        self._handed_out = 0
        self._unacked: deque[tuple[int, bytes, datetime]] = deque()
        self._closed = False
        self.heard_s = now_s()
        self.last_ack: bytes | None = None

    @property
    def in_flight(self) -> bool:
        """Whether something is handed out and not acked."""
        return bool(self._unacked) and self._unacked[0][0] <= self._handed_out

    @property
    def held(self) -> int:
        """How many messages are received and not acked."""
        return len(self._unacked)

    @property
    def oldest(self) -> datetime | None:
        """When the oldest message that is received and not acked came to the server."""
        return self._unacked[0][2] if self._unacked else None

    @property
    def waits_for_s(self) -> float:
        """For how long nothing at all has come, though it was asked for."""
        return self._now_s() - self.heard_s if self._asked else 0.0

    def ask(self) -> None:
        """Ask for as much as there is room for, if that is worth a request."""
        room = self.window - self._asked - len(self._unacked)
        if not self._closed and room > 0 and (self._asked == 0 or room * 4 >= self.window):
            if self._asked == 0:
                self.heard_s = self._now_s()
            self._asked += room
            self._pull(room)

    def close(self) -> None:
        """Take nothing more; what was delivered and not handed out is forgotten, and not acked."""
        self._closed = True
        while self._unacked and self._unacked[-1][0] > self._handed_out:
            self._unacked.pop()

    def take(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """Take what came for this partition: a message, or word of a request of ours."""
        if self._closed:
            return
        self.heard_s = self._now_s()
        if headers is not None and headers.startswith(_STATUS):
            self._take_status(headers)
            return
        self._asked -= 1
        tokens = reply.split(b".")
        first = 5 if len(tokens) == 9 else 7  # before it a domain and an account, or neither
        sequence, delivery = int(tokens[first]), int(tokens[first + 1])
        if delivery != self._next_delivery:
            self._break(f"delivery {delivery} instead of {self._next_delivery}")
            return
        self._next_delivery += 1
        if sequence <= self._last_sequence:
            self._take_again(sequence, reply)
            return
        self._last_sequence = sequence
        at = datetime.fromtimestamp(int(tokens[first + 2]) / 1e9, UTC)
        self._unacked.append((sequence, reply, at))
        topic = topic_of_stored(subject.decode(errors="replace"))
        self._deliver(Uplink(topic, data, at, (self.number, self.epoch, sequence)))

    def _take_again(self, sequence: int, reply: bytes) -> None:
        # It waited longer than the server does for an ack. It is still held here; or it is acked,
        # and that was lost on the way.
        if not self._unacked or sequence < self._unacked[0][0]:
            self.last_ack = reply
        self.ask()

    def hand_out(self, sequence: int) -> None:
        """Note that this message, and all before it, is about to be stored."""
        self._handed_out = sequence

    def ack(self, sequence: int) -> bytes | None:
        """Note that all up to this one are committed; return where to say so, if to anybody."""
        reply = None
        while self._unacked and self._unacked[0][0] <= sequence:
            reply = self._unacked.popleft()[1]
        if reply is not None:
            self.last_ack = reply
        self.ask()
        return reply

    def _take_status(self, headers: bytes) -> None:
        status = headers[len(_STATUS) :].split(b"\r\n", 1)[0].strip()
        if status.startswith(_HEARTBEAT):
            return
        left = _LEFT.search(headers)
        self._asked = max(0, self._asked - int(left[1])) if left else 0
        if status.startswith(_HARMLESS):
            self.ask()
        else:
            self._break(status.decode(errors="replace"))

    def _break(self, why: str) -> None:
        self.close()
        self._broken(why)
