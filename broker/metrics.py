"""What a front counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class FrontMetrics:
    """Prometheus metrics of one front, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.connections = Gauge(
            "tensorguard_broker_connections", "Live connections", ["role"], registry=self.registry
        )
        self.pending = Gauge(
            "tensorguard_broker_pending_connections",
            "Connections in the TLS handshake or before CONNECT",
            registry=self.registry,
        )
        self.held = Gauge(
            "tensorguard_broker_held_connections",
            "Connections held without a handshake, after too many refusals of their address",
            registry=self.registry,
        )
        self.not_tried = Gauge(
            "tensorguard_broker_handshakes_not_tried",
            "Connections that were given no handshake since the start",
            registry=self.registry,
        )
        self.connects = Counter(
            "tensorguard_broker_connects", "Admitted connections", ["role"], registry=self.registry
        )
        self.handshakes_failed = Counter(
            "tensorguard_broker_handshakes_failed",
            "TLS handshakes",
            ["reason"],
            registry=self.registry,
        )
        self.ended = Counter(
            "tensorguard_broker_disconnects",
            "Ended connections",
            ["reason"],
            registry=self.registry,
        )
        messages = Counter(
            "tensorguard_broker_messages",
            "MQTT messages accepted from agents (up) and hubs (down), and written to them",
            ["direction", "side"],
            registry=self.registry,
        )
        self.up_in = messages.labels("in", "agent")
        self.up_out = messages.labels("out", "hub")
        self.down_in = messages.labels("in", "hub")
        self.down_out = messages.labels("out", "agent")
        self.denied = Counter(
            "tensorguard_broker_denied",
            "Refused operations",
            ["operation", "reason"],
            registry=self.registry,
        )
        self.dropped = Counter(
            "tensorguard_broker_dropped",
            "Messages lost on the way",
            ["reason"],
            registry=self.registry,
        )
        self.hub_queue = Gauge(
            "tensorguard_broker_hub_queue_messages",
            "Messages waiting for hubs",
            registry=self.registry,
        )
        self.hub_in_flight = Gauge(
            "tensorguard_broker_hub_in_flight_messages",
            "Messages hubs have to ack",
            registry=self.registry,
        )
