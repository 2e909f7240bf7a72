"""The hub's counters, for Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

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

NATS_CONNECTED = Gauge("tensorguard_hub_nats_connected", "1 while this hub reads from NATS.")
PARTITIONS = Gauge("tensorguard_hub_partitions", "Partitions of the stream that this hub reads.")
PARTITIONS_BROKEN = Counter(
    "tensorguard_hub_partitions_broken",
    "Partitions begun anew after a gap or a lost consumer.",
)
STREAM_BYTES = Gauge("tensorguard_hub_stream_bytes", "What the stream holds, read or not.")
STREAM_FILL = Gauge(
    "tensorguard_hub_stream_fill_ratio",
    "Of the stream's bounds, in bytes or age, how much is taken by what no hub has committed.",
)
UPLINK_LAG = Gauge("tensorguard_hub_uplink_lag_messages", "Uplinks that no hub has committed.")
UPLINK_LAG_SECONDS = Gauge(
    "tensorguard_hub_uplink_lag_seconds", "Age of the oldest uplink that no hub has committed."
)
UPLINKS_DISCARDED = Counter(
    "tensorguard_hub_uplinks_discarded",
    "Uplinks, at most, that the stream dropped at its bounds before a hub had committed them.",
)

SINK_LAG = Gauge("tensorguard_sink_lag_entries", "Entries that a sink has yet to get.", ["sink"])
SINK_LAG_SECONDS = Gauge(
    "tensorguard_sink_lag_seconds", "Age of the oldest entry that a sink has yet to get.", ["sink"]
)
SINK_SENT = Counter("tensorguard_sink_entries", "Entries that a sink has accepted.", ["sink"])
SINK_FAILURES = Counter(
    "tensorguard_sink_failures", "Batches that a sink has not taken, by reason.", ["sink", "code"]
)
SINK_DEAD_LETTERS = Counter(
    "tensorguard_sink_dead_letters", "Entries that a sink refused for themselves.", ["sink"]
)
