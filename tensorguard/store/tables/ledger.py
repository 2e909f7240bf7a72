"""The ledger: events, their tree, its checkpoints, and what stands beside it."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from tensorguard.store.tables.columns import TextC, Time, metadata

ledger_events = Table(
    "ledger_events",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("entry", LargeBinary, nullable=False),
    Column("time", Time, nullable=False),
    Column("type", TextC, nullable=False),
    Column("actor_kind", TextC, nullable=False),
    Column("actor_id", TextC, nullable=False),
    Column("subject_kind", TextC, nullable=False),
    Column("subject_id", TextC, nullable=False),
    Column("fleet", TextC),
    Column("outcome", TextC, nullable=False),
)
ledger_unsequenced = Table(
    "ledger_unsequenced",
    metadata,
    Column("event_id", Uuid, primary_key=True),
)
ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("epoch", BigInteger, primary_key=True),
    Column("leaf_index", BigInteger, primary_key=True),
    Column("event_id", Uuid, nullable=False, unique=True),
    Column("leaf_hash", LargeBinary, nullable=False),
)
ledger_hashes = Table(
    "ledger_hashes",
    metadata,
    Column("epoch", BigInteger, primary_key=True),
    Column("level", SmallInteger, primary_key=True),
    Column("index", BigInteger, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
)
ledger_checkpoints = Table(
    "ledger_checkpoints",
    metadata,
    Column("epoch", BigInteger, primary_key=True),
    Column("tree_size", BigInteger, primary_key=True),
    Column("root_hash", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    Column("signed_at", Time, nullable=False),
)
ledger_forks = Table(
    "ledger_forks",
    metadata,
    Column("epoch", BigInteger, primary_key=True),
    Column("tree_size", BigInteger, primary_key=True),
    Column("root_hash", LargeBinary, primary_key=True),
    Column("agent_id", Uuid, nullable=False, unique=True),
    Column("reason", Text, nullable=False),
    Column("seen_at", Time, nullable=False),
)
privacy_keys = Table(
    "privacy_keys",
    metadata,
    Column("kid", TextC, primary_key=True),
    Column("public", LargeBinary, nullable=False),
    Column("secret_id", TextC, ForeignKey("secrets.id"), nullable=False),
    Column("created_at", Time, nullable=False),
)
subject_keys = Table(
    "subject_keys",
    metadata,
    Column("kid", TextC, primary_key=True),
    Column("subject_kind", TextC, nullable=False),
    Column("subject_id", TextC, nullable=False),
    Column("privacy_kid", TextC, ForeignKey("privacy_keys.kid"), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", Time, nullable=False),
)
Index("ledger_events_time_idx", ledger_events.c.time, ledger_events.c.id)
Index("ledger_events_type_idx", ledger_events.c.type, ledger_events.c.id)
Index("ledger_events_subject_idx", ledger_events.c.subject_id, ledger_events.c.id)
Index("ledger_events_actor_idx", ledger_events.c.actor_id, ledger_events.c.id)
Index("ledger_events_fleet_idx", ledger_events.c.fleet, ledger_events.c.id)
Index(
    "ledger_events_outcome_idx",
    ledger_events.c.outcome,
    ledger_events.c.id,
    postgresql_where=text("outcome <> 'success'"),
)
Index("subject_keys_subject_idx", subject_keys.c.subject_kind, subject_keys.c.subject_id)
