"""Sealed secrets, and the KEKs they are sealed under."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
    func,
    text,
)

from tensorguard.store.tables.columns import TextC, Time, metadata

secrets = Table(
    "secrets",
    metadata,
    Column("id", TextC, primary_key=True),
    Column("purpose", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("key_version", Text, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
    Column("context", LargeBinary, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("rewrapped_at", Time),
    Column("fleet", TextC, ForeignKey("fleets.slug")),
)
keks = Table(
    "keks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("fleet", TextC, ForeignKey("fleets.slug")),
    Column("provider", Text, nullable=False),
    Column("key_id", TextC, nullable=False),
    Column("origin", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("key_version", Text),
    Column("key_state", Text, nullable=False, server_default=text("'enabled'")),
    Column("expires_at", Time),
    Column("expiry_told_at", Time),
    Column("checked_at", Time),
    Column("trouble_code", Text),
    Column("trouble_reason", Text),
    Column("trouble_since", Time),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("retired_at", Time),
)
kek_versions = Table(
    "kek_versions",
    metadata,
    Column("kek_id", Uuid, ForeignKey("keks.id"), primary_key=True),
    Column("version", TextC, primary_key=True),
    Column("state", Text, nullable=False),
    Column("first_seen_at", Time, nullable=False),
    Column("changed_at", Time),
)
rewrap_jobs = Table(
    "rewrap_jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kek_id", Uuid, ForeignKey("keks.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("per_second", Integer, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("moved", BigInteger, nullable=False, server_default=text("0")),
    Column("failed", BigInteger, nullable=False, server_default=text("0")),
    Column("after", TextC, nullable=False, server_default=text("''")),
    Column("code", Text),
    Column("reason", Text),
    Column("retry_at", Time),
    Column("worker", Text),
    Column("lease_until", Time),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_by_kind", Text, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("finished_at", Time),
)
Index("secrets_kek_idx", secrets.c.provider, secrets.c.key_id, secrets.c.key_version)
Index(
    "keks_active_key",
    func.coalesce(keks.c.fleet, ""),
    unique=True,
    postgresql_where=text("state = 'active'"),
)
Index(
    "keks_reference_key",
    keks.c.provider,
    keks.c.key_id,
    func.coalesce(keks.c.fleet, ""),
    unique=True,
    postgresql_where=text("state <> 'retired'"),
)
Index(
    "rewrap_jobs_running_key",
    rewrap_jobs.c.kek_id,
    unique=True,
    postgresql_where=text("state = 'running'"),
)
Index("rewrap_jobs_kek_idx", rewrap_jobs.c.kek_id, rewrap_jobs.c.created_at)
