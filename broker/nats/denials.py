"""What the node's log tells of denied operations: counted, reported, and more than a few end it."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from broker.nats.log import SUSPICIOUS, Denial, FailedHandshake, Line
from broker.nats.metrics import NatsMetrics
from broker.nats.sessions import Place
from broker.reports import Operation, Reports
from broker.session import End, Session

_REASONS: Final[dict[Operation, str]] = {
    "publish": "foreign-topic",
    "subscribe": "foreign-topic",
    "retain": "retained-message",
}
_WINDOW_S: Final = 60.0
# Clients whose denials are counted at once; those denied last.
_CLIENTS: Final = 10_000


class _Node(Protocol):
    """Our own node's sessions."""

    def find_own(self, cid: int) -> tuple[Session, bool] | None: ...

    def place_of(self, cid: int) -> Place: ...

    def end(self, place: Place, reason: End) -> None: ...


class Denials:
    """Takes what the log tells, and ends the session of whoever does not stop."""

    def __init__(
        self,
        node: _Node,
        reports: Reports,
        metrics: NatsMetrics,
        per_minute: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._reports = reports
        self._metrics = metrics
        self._per_minute = per_minute
        self._monotonic = monotonic
        # Client -> since when it is counted, and how many.
        self._counts: OrderedDict[int, tuple[float, int]] = OrderedDict()

    def take(self, line: Line) -> None:
        """Count one line of the log."""
        if isinstance(line, FailedHandshake):
            self._metrics.handshakes_failed.labels(line.reason).inc()
            if line.reason in SUSPICIOUS:
                self._reports.denied("connect", line.reason)
            return
        found = self._node.find_own(line.cid)
        if found is None or found[0].agent.agent_id != line.agent_id:
            # Longer gone than is remembered: an agent's id without its fleet names nobody.
            self._reports.denied(line.operation, _REASONS[line.operation], topic=line.topic)
            return
        session, is_live = found
        operation, reason = line.operation, _REASONS[line.operation]
        if operation == "publish" and not is_live:
            # Nobody publishes after the end of a session but its last will.
            operation, reason = "will", "foreign-will"
        self._reports.denied(operation, reason, session.agent, topic=line.topic)
        if is_live and self._is_too_many(line):
            self._node.end(self._node.place_of(line.cid), End.FLOODED)

    def forget(self, cid: int) -> None:
        """Count a client that has gone no more."""
        self._counts.pop(cid, None)

    def _is_too_many(self, line: Denial) -> bool:
        now = self._monotonic()
        since, count = self._counts.pop(line.cid, (now, 0))
        if now - since > _WINDOW_S:
            since, count = now, 0
        self._counts[line.cid] = (since, count + 1)
        if len(self._counts) > _CLIENTS:
            self._counts.popitem(last=False)
        return count + 1 > self._per_minute
