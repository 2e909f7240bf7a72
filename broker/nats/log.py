"""The node's log: the only place where NATS tells which operations it has denied."""

import asyncio
import os
import re
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple
from uuid import UUID

import structlog

from broker.nats.metrics import NatsMetrics
from broker.reports import Operation

_log = structlog.get_logger()
_LOOK_EVERY_S: Final = 0.2
_READ_BYTES: Final = 256 * 1024
_LINE_BYTES: Final = 16 * 1024  # beyond it a line is no denial that we could read
# `[pid] date time [ERR] host:port - mid:12 - "client id" - …`: everything that a client chooses
# stands in Go's quotes, so that no client can write a line of another.
_HEAD: Final = re.compile(
    rb"^\[\d+\] \S+ \S+ \[(?:ERR|WRN)\] (?P<host>\S+):\d+ - mid:(?P<cid>\d+) - (?P<rest>.*)$"
)
_VIOLATION: Final = re.compile(
    rb'^"(?P<agent>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})" - '
    rb"(?P<kind>Publish|Subscription) Violation - "
    rb'Subject "(?P<subject>(?:[^"\\]|\\.)*)"(?:, SID \S+)?$'
)
_RETAINED: Final = re.compile(
    rb'^"(?P<agent>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})" - unable to store retained message'
    rb' for account "AGENTS", subject "(?P<subject>(?:[^"\\]|\\.)*)": '
)
_HANDSHAKE: Final = re.compile(rb"^(?:\"\" - )?TLS handshake error: (?P<why>.*)$")
# crypto/tls and crypto/x509 of Go, as far as they name what a peer did.
_WHY: Final = (
    (b"client didn't provide a certificate", "no-certificate"),
    (b"certificate has expired or is not yet valid: current time", "expired-or-not-yet-valid"),
    (b"incompatible key usage", "wrong-purpose"),
    (b"certificate signed by unknown authority", "untrusted-certificate"),
    (b"failed to verify certificate", "untrusted-certificate"),
    (b"client offered only unsupported versions", "tls-version"),
    (b"no cipher suite supported", "no-shared-cipher"),
    (b"first record does not look like a TLS handshake", "tls-error"),
    (b"i/o timeout", "handshake-timeout"),
)
SUSPICIOUS: Final = frozenset(
    {"no-certificate", "expired", "not-yet-valid", "wrong-purpose", "untrusted-certificate"}
)


class Denial(NamedTuple):
    """An operation that the server has denied to the agent that was, or is, its client `cid`."""

    cid: int
    agent_id: UUID
    operation: Operation
    topic: str


class FailedHandshake(NamedTuple):
    """A TLS handshake that came to nothing."""

    reason: str


Line = Denial | FailedHandshake


def read_line(line: bytes) -> Line | None:
    """Read one line of nats-server's log; None where it tells neither."""
    head = _HEAD.match(line)
    if head is None:
        return None
    violation = _VIOLATION.match(head["rest"])
    if violation is not None:
        operation: Operation = "publish" if violation["kind"] == b"Publish" else "subscribe"
        agent_id = UUID(violation["agent"].decode())
        return Denial(int(head["cid"]), agent_id, operation, _topic(violation["subject"]))
    retained = _RETAINED.match(head["rest"])
    if retained is not None:
        agent_id = UUID(retained["agent"].decode())
        return Denial(int(head["cid"]), agent_id, "retain", _topic(retained["subject"]))
    handshake = _HANDSHAKE.match(head["rest"])
    return FailedHandshake(_reason(handshake["why"])) if handshake is not None else None


def _reason(why: bytes) -> str:
    reason = next((name for text, name in _WHY if text in why), "handshake-aborted")
    if reason != "expired-or-not-yet-valid":
        return reason
    return "expired" if b" is after " in why else "not-yet-valid"


def _topic(subject: bytes) -> str:
    """Spell a subject as the topic that it came from (server/mqtt.go, natsSubjectToMQTTTopic)."""
    text = subject.decode("utf-8", "replace")
    special = {"/.": "/", "//": ".", ".": "/"}
    text = re.sub(r"/\.|//|\.", lambda found: special[found[0]], text)
    if text.endswith("/>") or text == ">":
        text = text[:-1] + "#"
    return re.sub(r"(?<![^/])\*(?![^/])", "+", text)


class _State(Enum):
    UNSAID = 0
    READ = 1
    OUT_OF_REACH = 2


class NodeLog:
    """Follows a log as it grows, is truncated and is replaced; starts at its present end."""

    def __init__(
        self, path: Path | None, metrics: NatsMetrics, on_line: Callable[[Line], None]
    ) -> None:
        self._path = path
        self._metrics = metrics
        self._on_line = on_line
        self._state = _State.UNSAID
        self._file: BinaryIO | None = None
        self._rest = b""

    async def run(self) -> None:
        """Read until cancelled; what cannot be read is said once, and tried again."""
        if self._path is None:
            self._say(_State.OUT_OF_REACH, reason="TG_NATS_LOG is not set")
            return
        self._open(self._path, at_end=True)
        try:
            while True:
                has_more = self._look(self._path)
                await asyncio.sleep(0 if has_more else _LOOK_EVERY_S)
        finally:
            self._close()

    def _look(self, path: Path) -> bool:
        """Read a piece; True where there may be more at once."""
        if self._file is None:
            self._open(path, at_end=False)
        if self._file is None:
            return False
        try:
            piece = self._file.read(_READ_BYTES)
            if piece:
                for line in self._lines(piece):
                    found = read_line(line)
                    if found is not None:
                        self._on_line(found)
                return True
            if self._was_replaced(path, self._file):
                self._close()
                return True
        except OSError as error:
            self._close()
            self._say(_State.OUT_OF_REACH, reason=error.strerror or str(error))
        return False

    def _lines(self, piece: bytes) -> Iterator[bytes]:
        lines: Iterable[bytes] = (self._rest + piece).split(b"\n")
        *whole, self._rest = lines
        if len(self._rest) > _LINE_BYTES:
            self._rest = b""
        yield from whole

    def _open(self, path: Path, *, at_end: bool) -> None:
        try:
            self._file = path.open("rb")
            if at_end:
                self._file.seek(0, os.SEEK_END)
        except OSError as error:
            self._say(_State.OUT_OF_REACH, reason=error.strerror or str(error))
            return
        self._rest = b""
        self._say(_State.READ)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @staticmethod
    def _was_replaced(path: Path, file: BinaryIO) -> bool:
        now, then = path.stat(), os.fstat(file.fileno())
        return (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino) or now.st_size < file.tell()

    def _say(self, state: _State, *, reason: str = "") -> None:
        if state is self._state:
            return
        self._state = state
        self._metrics.log_seen.set(1 if state is _State.READ else 0)
        if state is _State.READ:
            _log.info("node_log_read", path=str(self._path))
        else:
            _log.warning(
                "node_log_out_of_reach",
                message="denied publishes and subscribes are refused, and nobody is told of them",
                path=str(self._path),
                reason=reason,
            )
