"""Users, their sessions and API keys, and what needs a second person."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, LargeBinary, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB

from tensorguard.store.tables.columns import TextC, Time, metadata

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("email", TextC, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("password_changed_at", Time, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text),
    Column("disabled_at", Time),
    Column("password_reset_by", Text),
    Column("totp_secret_id", TextC, ForeignKey("secrets.id")),
    Column("totp_confirmed_at", Time),
    Column("totp_step", BigInteger, nullable=False, server_default=text("0")),
    Column("totp_reset_at", Time),
    Column("totp_reset_by", Text),
)
sessions = Table(
    "sessions",
    metadata,
    Column("id_sha256", LargeBinary, primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("last_seen_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("stepped_up_until", Time),
)
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", TextC, nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Time),
    Column("revoked_at", Time),
    Column("last_used_at", Time),
)
approvals = Table(
    "approvals",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("fleet", TextC),
    Column("request", JSONB, nullable=False),
    Column("request_sha256", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("requested_at", Time, nullable=False),
    Column("requested_by", Text, nullable=False),
    Column("requested_by_kind", Text, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("decided_at", Time),
    Column("decided_by", Text),
    Column("reason", Text),
    Column("result", JSONB),
)
Index("sessions_user_id_idx", sessions.c.user_id)
Index(
    "approvals_pending_key",
    approvals.c.requested_by,
    approvals.c.request_sha256,
    unique=True,
    postgresql_where=text("state = 'pending'"),
)
Index("approvals_requested_idx", approvals.c.requested_at, approvals.c.id)
