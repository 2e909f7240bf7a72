"""When events are sent: within the rate that the hub takes for normal, and again until acked."""

from agent.core.backoff import EVENTS
from agent.core.effects import Publish
from agent.core.turn import Turn
from tensorguard.protocol import codec, topics
from tensorguard.protocol.errors import ProtocolError
from tensorguard.protocol.messages import Ack
from tensorguard.protocol.topics import UpKind

_SOON_S = 0.05


class EventSender:
    """Paces the outbox with a token bucket, and probes while the hub does not ack."""

    __slots__ = (
        "_burst",
        "_probe_s",
        "_probes",
        "_rate_per_s",
        "_send_s",
        "_tokens",
        "_tokens_at_s",
    )

    def __init__(self, events_per_minute: float, burst: int) -> None:
        self._rate_per_s = events_per_minute / 60.0
        self._burst = float(burst)
        self._tokens = self._burst
        self._tokens_at_s = 0.0
        self._send_s: float | None = None
        self._probe_s: float | None = None
        self._probes = 0

    @property
    def due_s(self) -> float | None:
        """When `tick` or `send` has something to do, in monotonic seconds."""
        if self._send_s is None or self._probe_s is None:
            return self._probe_s if self._send_s is None else self._send_s
        return min(self._send_s, self._probe_s)

    def connected(self, turn: Turn) -> None:
        """Send everything that is not acked once more."""
        self._probes = 0
        self._rewind(turn, connected=True)

    def disconnected(self) -> None:
        """Nothing can be sent."""
        self._probe_s = self._send_s = None

    def tick(self, turn: Turn) -> None:
        """Probe when the hub has been silent for too long."""
        if self._probe_s is not None and turn.mono_s >= self._probe_s:
            self._probes += 1
            self._rewind(turn, connected=False)

    def acked(self, turn: Turn, payload: bytes) -> Ack | None:
        """Forget what the hub has committed; return what it said."""
        try:
            ack = codec.decode(Ack, payload)
        except ProtocolError:
            return None
        effects = turn.outbox.ack(ack, turn.new_id())
        if effects:
            turn.effects += effects
            self._probes = 0
            self._probe_s = None
        return ack

    def send(self, turn: Turn) -> None:
        """Send what may be sent now, and plan the rest."""
        self._send_s = None
        if not turn.online:
            return
        now_s, outbox = turn.mono_s, turn.outbox
        waited_s = max(0.0, now_s - self._tokens_at_s)
        self._tokens = min(self._burst, self._tokens + waited_s * self._rate_per_s)
        self._tokens_at_s = now_s
        while self._tokens >= 1.0 and (payload := outbox.take()) is not None:
            self._tokens -= 1.0
            self._publish(turn, payload)
        if outbox.sendable:
            self._send_s = now_s + max(_SOON_S, (1.0 - self._tokens) / self._rate_per_s)
        if not outbox.waiting:
            self._probe_s = None
        elif self._probe_s is None:
            self._probe_s = now_s + EVENTS.delay_s(self._probes, turn.uniform)

    def _rewind(self, turn: Turn, *, connected: bool) -> None:
        self._probe_s = None
        closer = turn.outbox.rewind(connected=connected)
        if closer is not None:
            self._publish(turn, closer)

    @staticmethod
    def _publish(turn: Turn, payload: bytes) -> None:
        identity = turn.identity
        turn.do(Publish(topics.up(identity.fleet, identity.agent_id, UpKind.EVENT), payload))
