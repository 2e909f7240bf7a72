"""What a NATS front counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_PREFIX = "tensorguard_broker"


class NatsMetrics:
    """Prometheus metrics; those that the embedded engine has as well have the same names."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.connections = Gauge(
            f"{_PREFIX}_connections",
            "Live connections of this front's node",
            ["role"],
            registry=self.registry,
        )
        self.known = Gauge(
            f"{_PREFIX}_known_sessions", "Live sessions of all nodes", registry=self.registry
        )
        self.connects = self._counter("connects", "Admitted connections", "role")
        self.ended = self._counter("disconnects", "Ended connections", "reason")
        self.denied = self._counter("denied", "Refused operations", "operation", "reason")
        self.handshakes_failed = self._counter("handshakes_failed", "TLS handshakes", "reason")
        self.dropped = self._counter("dropped", "Reports lost on the way", "reason")
        self.callouts = self._counter("callouts", "Answers to a node's auth callout", "result")
        self.callout_s = Histogram(
            f"{_PREFIX}_callout_seconds",
            "From the request of the auth callout to its answer",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2, 5),
            registry=self.registry,
        )
        self.kicks = self._counter(
            "kicks", "Sessions to be ended, by the server's answer", "result"
        )
        self.node_up = Gauge(
            f"{_PREFIX}_node_up", "1 while the node answers this front", registry=self.registry
        )
        self.untold = Gauge(
            f"{_PREFIX}_hub_queue_messages",
            "Reports waiting for the stream",
            registry=self.registry,
        )
        self.log_seen = Gauge(
            f"{_PREFIX}_node_log_read",
            "1 while the node's log is read: denied operations stand nowhere else",
            registry=self.registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, labels, registry=self.registry)
