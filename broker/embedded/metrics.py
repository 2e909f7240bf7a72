"""What a front counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class FrontMetrics:
    """Prometheus metrics of one listener; each of a process has a prefix of its own."""

    def __init__(
        self, registry: CollectorRegistry | None = None, prefix: str = "tensorguard_broker"
    ) -> None:
        self.registry = registry or CollectorRegistry()
        self.connections = Gauge(
            f"{prefix}_connections", "Live connections", ["role"], registry=self.registry
        )
        self.pending = Gauge(
            f"{prefix}_pending_connections",
            "Connections in the TLS handshake or before CONNECT",
            registry=self.registry,
        )
        self.held = Gauge(
            f"{prefix}_held_connections",
            "Connections held without a handshake, after too many refusals of their address",
            registry=self.registry,
        )
        self.not_tried = Gauge(
            f"{prefix}_handshakes_not_tried",
            "Connections that were given no handshake since the start",
            registry=self.registry,
        )
        self.connects = Counter(
            f"{prefix}_connects", "Admitted connections", ["role"], registry=self.registry
        )
        self.handshakes_failed = Counter(
            f"{prefix}_handshakes_failed",
            "TLS handshakes",
            ["reason"],
            registry=self.registry,
        )
        self.ended = Counter(
            f"{prefix}_disconnects",
            "Ended connections",
            ["reason"],
            registry=self.registry,
        )
        messages = Counter(
            f"{prefix}_messages",
            "MQTT messages accepted from agents (up) and hubs (down), and written to them",
            ["direction", "side"],
            registry=self.registry,
        )
        self.up_in = messages.labels("in", "agent")
        self.up_out = messages.labels("out", "hub")
        self.down_in = messages.labels("in", "hub")
        self.down_out = messages.labels("out", "agent")
        self.denied = Counter(
            f"{prefix}_denied",
            "Refused operations",
            ["operation", "reason"],
            registry=self.registry,
        )
        self.dropped = Counter(
            f"{prefix}_dropped",
            "Messages lost on the way",
            ["reason"],
            registry=self.registry,
        )
        self.hub_queue = Gauge(
            f"{prefix}_hub_queue_messages",
            "Messages waiting for hubs",
            registry=self.registry,
        )
        self.hub_in_flight = Gauge(
            f"{prefix}_hub_in_flight_messages",
            "Messages hubs have to ack",
            registry=self.registry,
        )
