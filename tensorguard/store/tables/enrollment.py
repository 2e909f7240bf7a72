"""Who may become an agent, and by what."""

from sqlalchemy import Column, ForeignKey, Index, Integer, LargeBinary, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY, CIDR, JSONB

from tensorguard.store.tables.columns import TextC, Time, metadata

enrollment_tokens = Table(
    "enrollment_tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("fleet", TextC, ForeignKey("fleets.slug"), nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False, unique=True),
    Column("tags", JSONB, nullable=False),
    Column("approval", Text, nullable=False),
    Column("cidr", CIDR),
    Column("max_uses", Integer, nullable=False),
    Column("uses_left", Integer, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("revoked_at", Time),
)
manufacturer_cas = Table(
    "manufacturer_cas",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("fleet", TextC, ForeignKey("fleets.slug"), nullable=False),
    Column("name", Text, nullable=False),
    Column("certificate", Text, nullable=False),
    Column("spki_sha256", LargeBinary, nullable=False),
    Column("approval", Text, nullable=False),
    Column("serials", ARRAY(Text)),
    Column("tags", JSONB, nullable=False),
    Column("max_agents", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("challenge", Text, nullable=False),
    Column("challenge_expires_at", Time, nullable=False),
    Column("not_after", Time, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("activated_at", Time),
    Column("revoked_at", Time),
)
recoveries = Table(
    "recoveries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("agent_id", Uuid, ForeignKey("agents.id"), nullable=False),
    Column("serial", TextC, ForeignKey("certificates.serial"), nullable=False),
    Column("csr", Text, nullable=False),
    Column("spki_sha256", LargeBinary, nullable=False),
    Column("peer", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("requested_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("decided_at", Time),
    Column("decided_by", Text),
    Column("issued", TextC, ForeignKey("certificates.serial")),
)
Index("enrollment_tokens_fleet_idx", enrollment_tokens.c.fleet, enrollment_tokens.c.id)
Index("manufacturer_cas_fleet_idx", manufacturer_cas.c.fleet, manufacturer_cas.c.id)
Index(
    "manufacturer_cas_active_key",
    manufacturer_cas.c.spki_sha256,
    unique=True,
    postgresql_where=text("state = 'active'"),
)
Index(
    "recoveries_pending_key",
    recoveries.c.agent_id,
    unique=True,
    postgresql_where=text("state = 'pending'"),
)
Index("recoveries_requested_idx", recoveries.c.requested_at, recoveries.c.id)
