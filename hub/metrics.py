"""The hub's counters, for Prometheus."""

from prometheus_client import Counter, Histogram

MESSAGES = Counter("tensorguard_hub_messages", "Uplinks committed and acked.")
HEARTBEATS = Counter("tensorguard_hub_heartbeats", "Heartbeats accepted as newest of their agent.")
EVENTS = Counter("tensorguard_hub_events", "Events of agents that were new.")
DEAD_LETTERS = Counter("tensorguard_hub_dead_letters", "Uplinks that could not be used.")
DOWNLINKS_DROPPED = Counter(
    "tensorguard_hub_downlinks_dropped", "Downlinks without room; repaired at the next heartbeat."
)
BATCH_SECONDS = Histogram(
    "tensorguard_hub_batch_seconds",
    "Time from a full batch to its commit and acks.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
