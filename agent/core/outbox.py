"""Events that the platform has not confirmed: numbered, bounded, repeated until acked.

The bytes of an event are fixed when it is made: the hub tells a repetition from a conflict by their
digest. So `oldest` in them is that of the moment, and the event that reports an overflow, made
after the drop, is what closes the gap; it is sent first.
"""

from collections import deque
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from agent.core.effects import DropEvents, Effect, KeepEvent, NewLog
from tensorguard.protocol import codec
from tensorguard.protocol.messages import Ack, Event, EventType

MAX_EVENTS = 10_000
MAX_BYTES = 16 * 1024 * 1024
_DROP_SHARE = 10  # an overflow drops a tenth at once, so that reporting it does not overflow again
_FIRST_WINDOW = 16
_MAX_WINDOW = 128


class Outbox:
    """The events of one log_id that are still held, and how far they have been sent.

    Sending starts with a small window that doubles with each ack, because the hub treats more than
    a burst of 1,000 as flooding, and a hub that is down must not find every event ten times.
    """

    __slots__ = ("_bytes", "_closer", "_held", "_in_flight", "_issued", "_window", "log_id")

    def __init__(
        self, log_id: UUID, held: Iterable[tuple[int, bytes]] = (), *, issued: int = 0
    ) -> None:
        self.log_id = log_id
        self._held: deque[tuple[int, bytes]] = deque(held)
        self._bytes = sum(len(payload) for _, payload in self._held)
        self._issued = max(issued, self._held[-1][0] if self._held else 0)
        self._in_flight = 0
        self._window = _FIRST_WINDOW
        self._closer: int | None = None
        if self._held and self._held[0][0] > 1:
            self._closer = self._find_closer()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def issued(self) -> int:
        """The highest number that was ever given in this log_id."""
        return self._issued

    @property
    def size_bytes(self) -> int:
        """The bytes of all events held."""
        return self._bytes

    def held(self) -> list[tuple[int, bytes]]:
        """Every event that is held, with its number."""
        return list(self._held)

    @property
    def waiting(self) -> bool:
        """Whether something was sent that is not acked yet."""
        return self._in_flight > 0

    @property
    def sendable(self) -> bool:
        """Whether there is something to send within the window."""
        return self._in_flight < min(len(self._held), self._window)

    def add(self, type_: EventType, details: dict[str, Any], at: datetime) -> list[Effect]:
        """Give an event its number and hold it, dropping the oldest where there is no room."""
        effects: list[Effect] = []
        event = self._encode(type_, details, at)
        if len(self._held) >= MAX_EVENTS or self._bytes + len(event) > MAX_BYTES:
            effects.append(self._drop_oldest(len(event)))
            dropped = effects[0]
            assert isinstance(dropped, DropEvents)
            report = {"through": dropped.through, "held": len(self._held)}
            effects.append(self._append(self._encode("outbox.overflowed", report, at)))
            self._closer = self._issued
            event = self._encode(type_, details, at)
        effects.append(self._append(event))
        return effects

    def take(self) -> bytes | None:
        """Return the next event to send, or None when the window is used up."""
        if not self.sendable:
            return None
        payload = self._held[self._in_flight][1]
        self._in_flight += 1
        return payload

    def rewind(self, *, connected: bool) -> bytes | None:
        """Begin again at the oldest event; return the event that closes a gap, to be sent first.

        After a time-out (`connected` False) one event probes until the hub answers again.
        """
        self._in_flight = 0
        self._window = _FIRST_WINDOW if connected else 1
        if self._closer is None:
            return None
        return next((p for number, p in reversed(self._held) if number == self._closer), None)

    def ack(self, ack: Ack, new_log_id: UUID) -> list[Effect]:
        """Forget what is committed or will never be.

        An ack above what was ever issued here means that this outbox was restored from an older
        image: numbers would be used twice, so everything held goes into a new log.
        """
        if ack.log_id != self.log_id:
            return []
        if ack.through > self._issued:
            return [self._start_log(new_log_id)]
        before = len(self._held)
        while self._held and self._held[0][0] <= ack.through:
            self._forget(self._held.popleft()[1])
        rejected = frozenset(ack.rejected)
        if rejected and any(number in rejected for number, _ in self._held):
            kept = deque(pair for pair in self._held if pair[0] not in rejected)
            self._bytes = sum(len(payload) for _, payload in kept)
            self._held = kept
        gone = before - len(self._held)
        if not gone:
            return []
        self._in_flight = max(0, self._in_flight - gone)
        self._window = min(_MAX_WINDOW, self._window * 2)
        if self._closer is not None and (not self._held or self._closer < self._held[0][0]):
            self._closer = None
        return [DropEvents(ack.through, tuple(sorted(rejected)))]

    def retract(self, number: int) -> int:
        """Take back `number` and all above it, which could not be written; return how many."""
        count = 0
        while self._held and self._held[-1][0] >= number:
            self._forget(self._held.pop()[1])
            count += 1
        self._issued = min(self._issued, number - 1)
        self._in_flight = min(self._in_flight, len(self._held))
        if self._closer is not None and self._closer >= number:
            self._closer = None
        return count

    def _encode(self, type_: EventType, details: dict[str, Any], at: datetime) -> bytes:
        number = self._issued + 1
        oldest = self._held[0][0] if self._held else number
        return codec.encode(
            Event(
                log_id=self.log_id, number=number, oldest=oldest, at=at, type=type_, details=details
            )
        )

    def _append(self, payload: bytes) -> KeepEvent:
        self._issued += 1
        self._held.append((self._issued, payload))
        self._bytes += len(payload)
        return KeepEvent(self._issued, payload)

    def _forget(self, payload: bytes) -> None:
        self._bytes -= len(payload)

    def _drop_oldest(self, needed_bytes: int) -> DropEvents:
        count = max(1, len(self._held) // _DROP_SHARE)
        through = 0
        while self._held and (count > 0 or self._bytes + needed_bytes > MAX_BYTES):
            through, payload = self._held.popleft()
            self._forget(payload)
            count -= 1
            self._in_flight = max(0, self._in_flight - 1)
        return DropEvents(through)

    def _start_log(self, log_id: UUID) -> NewLog:
        held = [_decode(payload) for _, payload in self._held]
        self.log_id = log_id
        self._held.clear()
        self._bytes = self._issued = self._in_flight = 0
        self._window = _FIRST_WINDOW
        self._closer = None
        for event in held:
            self._append(self._encode(event.type, event.details, event.at))
        return NewLog(log_id, tuple(self._held))

    def _find_closer(self) -> int | None:
        for number, payload in reversed(self._held):
            if _decode(payload).type == "outbox.overflowed":
                return number
        return None


def _decode(payload: bytes) -> Event:
    """Return an event from bytes that this module made."""
    return codec.decode(Event, payload)
