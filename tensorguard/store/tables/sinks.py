"""Sinks, and the entries that their destinations would not take."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from tensorguard.store.tables.columns import TextC, Time, metadata

_ZERO = text("0")

sinks = Table(
    "sinks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", TextC, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("config", JSONB, nullable=False),
    Column("private_fields", Boolean, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'active'")),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("secret_version", Integer, nullable=False, server_default=_ZERO),
    Column("previous_until", Time),
    Column("epoch", BigInteger, nullable=False),
    Column("next_index", BigInteger, nullable=False),
    Column("sent", BigInteger, nullable=False, server_default=_ZERO),
    Column("last_sent_at", Time),
    Column("answer_status", Integer),
    Column("answer_text", Text),
    Column("answered_at", Time),
    Column("failures", Integer, nullable=False, server_default=_ZERO),
    Column("trouble_code", Text),
    Column("trouble_reason", Text),
    Column("trouble_since", Time),
    Column("retry_at", Time),
    Column("spells", Integer, nullable=False, server_default=_ZERO),
    Column("spell_told", Boolean, nullable=False, server_default=text("false")),
    Column("failing_told_at", Time),
    Column("dead_untold", Integer, nullable=False, server_default=_ZERO),
    Column("dead_told_at", Time),
    Column("gap_untold", BigInteger, nullable=False, server_default=_ZERO),
    Column("gap_first", BigInteger),
    Column("gap_last", BigInteger),
    Column("gap_told_at", Time),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("updated_at", Time, nullable=False),
)
sink_dead_letters = Table(
    "sink_dead_letters",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("sink_id", Uuid, ForeignKey("sinks.id", ondelete="CASCADE"), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("leaf_index", BigInteger, nullable=False),
    Column("event_type", TextC, nullable=False),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("status", Integer),
    Column("answer", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("1")),
    Column("dead_at", Time, nullable=False),
    Column("replay_requested_at", Time),
    UniqueConstraint("sink_id", "epoch", "leaf_index"),
)
Index("sink_dead_letters_page_idx", sink_dead_letters.c.sink_id, sink_dead_letters.c.id)
Index(
    "sink_dead_letters_replay_idx",
    sink_dead_letters.c.sink_id,
    sink_dead_letters.c.replay_requested_at,
    postgresql_where=text("replay_requested_at IS NOT NULL"),
)
