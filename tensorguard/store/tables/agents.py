"""Fleets, agents and their certificates, and where each agent stands."""

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from tensorguard.store.tables.columns import TextC, Time, metadata

fleets = Table(
    "fleets",
    metadata,
    Column("slug", TextC, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("deployments_need_approval", Boolean, nullable=False, server_default=text("false")),
)
fleet_configs = Table(
    "fleet_configs",
    metadata,
    Column("fleet", TextC, ForeignKey("fleets.slug"), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("heartbeat_interval_s", Integer, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("issued_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
)
fleet_notices = Table(
    "fleet_notices",
    metadata,
    Column("fleet", TextC, ForeignKey("fleets.slug"), primary_key=True),
    Column("config_revision", BigInteger, nullable=False, server_default=text("0")),
    Column("checkpoint_at", Time, nullable=False, server_default=text("'-infinity'")),
)
agents = Table(
    "agents",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("fleet", TextC, ForeignKey("fleets.slug"), nullable=False),
    Column("name", TextC, nullable=False),
    Column("tags", JSONB, nullable=False),
    Column("facts", JSONB, nullable=False),
    Column("status", Text, nullable=False),
    Column("status_reason", Text),
    Column("enrolled_by", Text, nullable=False),
    Column("token_id", Uuid, ForeignKey("enrollment_tokens.id")),
    Column("enrolled_spki_sha256", LargeBinary, nullable=False),
    Column("encryption_key", LargeBinary, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("enrolled_at", Time),
    Column("revoked_at", Time),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("manufacturer_ca_id", Uuid, ForeignKey("manufacturer_cas.id")),
    Column("device_issuer_spki_sha256", LargeBinary),
    Column("device_serial", TextC),
    Column("released_at", Time),
    Column("move_to", TextC, ForeignKey("fleets.slug")),
)
certificates = Table(
    "certificates",
    metadata,
    Column("serial", TextC, primary_key=True),
    Column("agent_id", Uuid, ForeignKey("agents.id"), nullable=False),
    Column("spki_sha256", LargeBinary, nullable=False),
    Column("certificate", Text, nullable=False),
    Column("not_before", Time, nullable=False),
    Column("not_after", Time, nullable=False),
    Column("issued_at", Time, nullable=False),
    Column("first_connected_at", Time),
    Column("superseded_at", Time),
    Column("authority_key_id", LargeBinary, nullable=False),
)
agent_state = Table(
    "agent_state",
    metadata,
    Column("agent_id", Uuid, primary_key=True),
    Column("boot_id", Uuid),
    Column("boot_count", BigInteger, nullable=False, server_default=text("-1")),
    Column("seq", BigInteger, nullable=False, server_default=text("-1")),
    Column("received_at", Time),
    Column("sent_at", Time),
    Column("late_after", Time),
    Column("offline_after", Time),
    Column("status", Text),
    Column("cpu_percent", REAL),
    Column("memory_percent", REAL),
    Column("disk_percent", REAL),
    Column("temperature_c", REAL),
    Column("accelerators", JSONB),
    Column("metrics", JSONB),
    Column("package_name", Text),
    Column("package_version", Text),
    Column("package_digest", LargeBinary),
    Column("agent_version", Text),
    Column("desired_epoch", BigInteger),
    Column("desired_revision", BigInteger),
    Column("config_revision", BigInteger),
    Column("trust_version", BigInteger),
    Column("ledger_size", BigInteger),
    Column("ledger_root", LargeBinary),
    Column("ledger_epoch", BigInteger),
)
agent_status = Table(
    "agent_status",
    metadata,
    Column("agent_id", Uuid, primary_key=True),
    Column("presence", Text, nullable=False),
    Column("presence_since", Time, nullable=False),
    Column("front_id", Text),
    Column("connected_at", Time),
    Column("disconnected_at", Time),
    Column("trust_score", SmallInteger, nullable=False, server_default=text("100")),
    Column("trust_since", Time),
    Column("running_digest", LargeBinary),
    Column("running_since", Time),
)
commands = Table(
    "commands",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("agent_id", Uuid, ForeignKey("agents.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("arguments", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("result", JSONB),
    Column("envelope", LargeBinary),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("sent_at", Time),
    Column("finished_at", Time),
)
_UNRELEASED = text("released_at IS NULL")
Index(
    "agents_enrolled_spki_key",
    agents.c.enrolled_spki_sha256,
    unique=True,
    postgresql_where=_UNRELEASED,
)
Index(
    "agents_encryption_key_key",
    agents.c.encryption_key,
    unique=True,
    postgresql_where=_UNRELEASED,
)
Index(
    "agents_device_serial_key",
    agents.c.device_issuer_spki_sha256,
    agents.c.device_serial,
    unique=True,
    postgresql_where=_UNRELEASED,
)
Index("agents_moving_idx", agents.c.id, postgresql_where=text("move_to IS NOT NULL"))
Index("agents_manufacturer_idx", agents.c.manufacturer_ca_id, postgresql_where=_UNRELEASED)
Index(
    "agents_pending_idx",
    agents.c.created_at,
    agents.c.id,
    postgresql_where=text("status = 'pending'"),
)
Index(
    "agents_pending_token_idx",
    agents.c.token_id,
    postgresql_where=text("status = 'pending'"),
)
Index("agents_fleet_idx", agents.c.fleet, agents.c.id)
Index("agents_name_idx", agents.c.name, agents.c.id)
Index("certificates_agent_id_idx", certificates.c.agent_id, certificates.c.issued_at)
Index("certificates_spki_idx", certificates.c.spki_sha256)
Index(
    "certificates_live_idx",
    certificates.c.agent_id,
    certificates.c.issued_at,
    postgresql_where=text("superseded_at IS NULL"),
)
Index("agent_status_presence_idx", agent_status.c.presence, agent_status.c.agent_id)
Index("agent_status_trust_idx", agent_status.c.trust_score, agent_status.c.agent_id)
Index("agent_status_running_idx", agent_status.c.running_digest, agent_status.c.agent_id)
Index("commands_agent_idx", commands.c.agent_id, commands.c.id)
Index(
    "commands_open_idx",
    commands.c.agent_id,
    postgresql_where=text("state IN ('queued', 'sent')"),
)
