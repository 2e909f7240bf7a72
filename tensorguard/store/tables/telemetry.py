"""What agents send: heartbeats, events, requests, and what could not be read."""

from sqlalchemy import (
    REAL,
    BigInteger,
    Column,
    Date,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from tensorguard.store.tables.columns import Time, metadata

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("agent_id", Uuid, nullable=False),
    Column("received_at", Time, nullable=False),
    Column("sent_at", Time, nullable=False),
    Column("boot_count", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("cpu_percent", REAL, nullable=False),
    Column("memory_percent", REAL, nullable=False),
    Column("disk_percent", REAL, nullable=False),
    Column("temperature_c", REAL),
    Column("package_digest", LargeBinary),
    Column("accelerators", JSONB),
    Column("metrics", JSONB),
)
agent_logs = Table(
    "agent_logs",
    metadata,
    Column("agent_id", Uuid, primary_key=True),
    Column("log_id", Uuid, primary_key=True),
    Column("through", BigInteger, nullable=False),
    Column("opened_at", Time, nullable=False),
)
agent_events = Table(
    "agent_events",
    metadata,
    Column("agent_id", Uuid, primary_key=True),
    Column("log_id", Uuid, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("payload_sha256", LargeBinary, nullable=False),
    Column("event_id", Uuid),
    Column("received_at", Time, nullable=False),
)
agent_event_budgets = Table(
    "agent_event_budgets",
    metadata,
    Column("agent_id", Uuid, primary_key=True),
    Column("tokens", Double, nullable=False),
    Column("refilled_at", Time, nullable=False),
    Column("day", Date, nullable=False),
    Column("day_count", Integer, nullable=False),
    Column("excess", BigInteger, nullable=False, server_default=text("0")),
    Column("excess_since", Time),
    Column("excess_sha256", LargeBinary),
)
agent_requests = Table(
    "agent_requests",
    metadata,
    Column("agent_id", Uuid, primary_key=True),
    Column("request_id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("request_sha256", LargeBinary, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("answered_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
)
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("agent_id", Uuid),
    Column("topic", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("payload_bytes", BigInteger, nullable=False),
    Column("payload_sha256", LargeBinary, nullable=False),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("received_at", Time, nullable=False),
)
Index("heartbeats_agent_idx", heartbeats.c.agent_id, heartbeats.c.received_at.desc())
Index(
    "heartbeats_received_at_idx",
    heartbeats.c.received_at,
    postgresql_using="brin",
    postgresql_with={"pages_per_range": 16, "autosummarize": True},
)
Index("agent_events_received_at_idx", agent_events.c.received_at)
Index(
    "agent_event_budgets_excess_idx",
    agent_event_budgets.c.excess_since,
    postgresql_where=text("excess > 0"),
)
Index("dead_letters_agent_idx", dead_letters.c.agent_id, dead_letters.c.id)
