"""Every table as SQLAlchemy sees it; migrations/ makes them, and a test compares the two."""

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, CIDR, JSONB

metadata = MetaData()
Time = DateTime(timezone=True)
# Compared and sorted byte by byte: identifiers, and whatever a page's cursor stands on.
TextC = Text(collation="C")

platform = Table(
    "platform",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("engine", Text, nullable=False),
    Column("trust_domain", Text),
    Column("epoch", BigInteger, nullable=False, server_default=text("1")),
    Column("heartbeat_partition", Interval, nullable=False, server_default=text("'1 day'")),
    Column("heartbeat_retention", Interval, nullable=False, server_default=text("'30 days'")),
    Column("created_at", Time, nullable=False, server_default=func.now()),
    Column("initialised_at", Time),
    Column("columnstore_after", Interval, nullable=False, server_default=text("'2 days'")),
    Column("rollup_1m_retention", Interval, nullable=False, server_default=text("'30 days'")),
    Column("rollup_1h_retention", Interval, nullable=False, server_default=text("'365 days'")),
    Column("rollup_1d_retention", Interval, nullable=False, server_default=text("'1095 days'")),
    Column("late_heartbeats", Interval, nullable=False, server_default=text("'3 days'")),
)
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
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("actor", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_sha256", LargeBinary, nullable=False),
    Column("status", Integer, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("created_at", Time, nullable=False),
)
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
ca_certificates = Table(
    "ca_certificates",
    metadata,
    Column("spki_sha256", LargeBinary, primary_key=True),
    Column("subject_key_id", LargeBinary, nullable=False, unique=True),
    Column("certificate", Text, nullable=False),
    Column("secret_id", Text, ForeignKey("secrets.id"), nullable=False),
    Column("not_before", Time, nullable=False),
    Column("not_after", Time, nullable=False),
    Column("state", Text, nullable=False),
)
signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", TextC, primary_key=True),
    Column("purpose", Text, nullable=False),
    Column("public", LargeBinary, nullable=False),
    Column("secret_id", Text, ForeignKey("secrets.id"), nullable=False),
    Column("not_before", Time, nullable=False),
    Column("not_after", Time, nullable=False),
    Column("state", Text, nullable=False),
)
trust_bundles = Table(
    "trust_bundles",
    metadata,
    Column("version", BigInteger, primary_key=True),
    Column("envelope", LargeBinary, nullable=False),
    Column("issued_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
)
publishers = Table(
    "publishers",
    metadata,
    Column("kid", TextC, primary_key=True),
    Column("name", TextC, nullable=False),
    Column("alg", Text, nullable=False),
    Column("public", LargeBinary, nullable=False),
    Column("names", ARRAY(Text), nullable=False),
    Column("not_after", Time, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("revoked_at", Time),
)
fleets = Table(
    "fleets",
    metadata,
    Column("slug", TextC, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
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
service_certificates = Table(
    "service_certificates",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("service", Text, nullable=False),
    Column("instance", TextC, nullable=False),
    Column("csr", Text, nullable=False),
    Column("hosts", ARRAY(Text), nullable=False),
    Column("requested_at", Time, nullable=False),
    Column("certificate", Text),
    Column("refusal", Text),
    Column("answered_at", Time),
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
revocations = Table(
    "revocations",
    metadata,
    Column("seq", BigInteger, primary_key=True),
    Column("agent_id", Uuid),
    Column("serial", Text),
    Column("reason", Text, nullable=False),
    Column("revoked_at", Time, nullable=False),
    Column("revoked_by", Text, nullable=False),
)
broker_fronts = Table(
    "broker_fronts",
    metadata,
    Column("id", TextC, primary_key=True),
    Column("address", Text, nullable=False),
    Column("started_at", Time, nullable=False),
    Column("lease_until", Time, nullable=False),
    Column("applied_seq", BigInteger, nullable=False),
)
revocation_receipts = Table(
    "revocation_receipts",
    metadata,
    Column("seq", BigInteger, ForeignKey("revocations.seq"), primary_key=True),
    Column("front_id", Text, primary_key=True),
    Column("denied_at", Time, nullable=False),
    Column("disconnected", Integer, nullable=False),
    Column("disconnected_at", Time),
)
fleet_revocations = Table(
    "fleet_revocations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("fleet", TextC, ForeignKey("fleets.slug"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("agents", Integer, nullable=False),
    Column("first_seq", BigInteger),
    Column("last_seq", BigInteger),
    Column("revoked_at", Time, nullable=False),
    Column("revoked_by", Text, nullable=False),
    Column("approved_by", Text),
)
revocations_unconfirmed = Table(
    "revocations_unconfirmed",
    metadata,
    Column("seq", BigInteger, ForeignKey("revocations.seq"), primary_key=True),
    Column("fleet_revocation_id", Uuid, ForeignKey("fleet_revocations.id")),
    Column("told_partial_at", Time),
)
packages = Table(
    "packages",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("name", TextC, nullable=False),
    Column("version", TextC, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("publisher_kid", Text, ForeignKey("publishers.kid"), nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("file_sha256", LargeBinary, nullable=False),
    Column("store_key", Text, nullable=False),
    Column("dek_secret_id", Text, ForeignKey("secrets.id"), nullable=False),
    Column("not_before", Time, nullable=False),
    Column("not_after", Time),
    Column("uploaded_at", Time, nullable=False),
    Column("uploaded_by", Text, nullable=False),
    Column("withdrawn_at", Time),
    UniqueConstraint("name", "seq"),
)
releases = Table(
    "releases",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", TextC, nullable=False),
    Column("version", TextC, nullable=False),
    Column("package_digest", LargeBinary, ForeignKey("packages.digest"), nullable=False),
    Column("notes", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("withdrawn_at", Time),
    UniqueConstraint("name", "version"),
)
deployments = Table(
    "deployments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("release_id", Uuid, ForeignKey("releases.id"), nullable=False),
    Column("fleets", ARRAY(Text), nullable=False),
    Column("selector", Text, nullable=False),
    Column("strategy", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_reason", Text, nullable=False, server_default=text("''")),
    Column("salt", LargeBinary, nullable=False),
    Column("stage", Integer, nullable=False, server_default=text("0")),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("started_at", Time),
    Column("finished_at", Time),
)
deployment_stages = Table(
    "deployment_stages",
    metadata,
    Column("deployment_id", Uuid, ForeignKey("deployments.id"), primary_key=True),
    Column("stage", Integer, primary_key=True),
    Column("percent", Integer, nullable=False),
    Column("cutoff", LargeBinary),
    Column("agents", Integer),
    Column("gate", JSONB),
    Column("held_since", Time),
    Column("started_at", Time),
    Column("finished_at", Time),
)
deployment_agents = Table(
    "deployment_agents",
    metadata,
    Column("deployment_id", Uuid, ForeignKey("deployments.id"), primary_key=True),
    Column("agent_id", Uuid, ForeignKey("agents.id"), primary_key=True),
    Column("stage", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("percent", SmallInteger),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("previous_digest", LargeBinary),
    Column("notified_at", Time),
    Column("started_at", Time),
    Column("finished_at", Time),
    Column("updated_at", Time, nullable=False),
)
agent_desired = Table(
    "agent_desired",
    metadata,
    Column("agent_id", Uuid, ForeignKey("agents.id"), primary_key=True),
    Column("deployment_id", Uuid, ForeignKey("deployments.id")),
    Column("package_digest", LargeBinary, ForeignKey("packages.digest")),
    Column("epoch", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("issued_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("sent_at", Time),
)
stream_events = Table(
    "stream_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column(
        "xact",
        BigInteger,
        primary_key=True,
        server_default=text("((pg_current_xact_id())::text)::bigint"),
    ),
    Column("kind", Text, nullable=False),
    Column("subject_id", Text),
    Column("fleet", TextC),
    Column("count", BigInteger),
    Column("at", Time, nullable=False),
)
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
    Column("leaf_index", BigInteger, primary_key=True),
    Column("event_id", Uuid, nullable=False, unique=True),
    Column("leaf_hash", LargeBinary, nullable=False),
)
ledger_hashes = Table(
    "ledger_hashes",
    metadata,
    Column("level", SmallInteger, primary_key=True),
    Column("index", BigInteger, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
)
ledger_checkpoints = Table(
    "ledger_checkpoints",
    metadata,
    Column("tree_size", BigInteger, primary_key=True),
    Column("root_hash", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    Column("signed_at", Time, nullable=False),
)
hubs = Table(
    "hubs",
    metadata,
    Column("id", TextC, primary_key=True),
    Column("started_at", Time, nullable=False),
    Column("lease_until", Time, nullable=False),
)
uplink_partitions = Table(
    "uplink_partitions",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("hub_id", TextC),
    Column("lease_until", Time),
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
)
fleet_notices = Table(
    "fleet_notices",
    metadata,
    Column("fleet", TextC, ForeignKey("fleets.slug"), primary_key=True),
    Column("config_revision", BigInteger, nullable=False, server_default=text("0")),
    Column("checkpoint_at", Time, nullable=False, server_default=text("'-infinity'")),
)
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
Index("sessions_user_id_idx", sessions.c.user_id)
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
Index("enrollment_tokens_fleet_idx", enrollment_tokens.c.fleet, enrollment_tokens.c.id)
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
Index(
    "approvals_pending_key",
    approvals.c.requested_by,
    approvals.c.request_sha256,
    unique=True,
    postgresql_where=text("state = 'pending'"),
)
Index("approvals_requested_idx", approvals.c.requested_at, approvals.c.id)
Index("fleet_revocations_fleet_idx", fleet_revocations.c.fleet, fleet_revocations.c.id)
Index(
    "service_certificates_instance_idx",
    service_certificates.c.service,
    service_certificates.c.instance,
    service_certificates.c.requested_at,
)
Index(
    "service_certificates_open_idx",
    service_certificates.c.requested_at,
    postgresql_where=text("answered_at IS NULL"),
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
Index(
    "agent_event_budgets_excess_idx",
    agent_event_budgets.c.excess_since,
    postgresql_where=text("excess > 0"),
)
Index("commands_agent_idx", commands.c.agent_id, commands.c.id)
Index("dead_letters_agent_idx", dead_letters.c.agent_id, dead_letters.c.id)
Index("revocations_agent_idx", revocations.c.agent_id)
Index("revocations_revoked_at_idx", revocations.c.revoked_at)
Index("packages_uploaded_idx", packages.c.uploaded_at, packages.c.digest)
Index("deployments_state_idx", deployments.c.state, deployments.c.id)
Index("deployment_agents_agent_idx", deployment_agents.c.agent_id)
Index(
    "agent_desired_unsent_idx", agent_desired.c.agent_id, postgresql_where=text("sent_at IS NULL")
)
Index("ledger_events_time_idx", ledger_events.c.time, ledger_events.c.id)
Index("ledger_events_type_idx", ledger_events.c.type, ledger_events.c.id)
Index("ledger_events_subject_idx", ledger_events.c.subject_id, ledger_events.c.id)
Index("heartbeats_agent_idx", heartbeats.c.agent_id, heartbeats.c.received_at.desc())
Index(
    "heartbeats_received_at_idx",
    heartbeats.c.received_at,
    postgresql_using="brin",
    postgresql_with={"pages_per_range": 16, "autosummarize": True},
)
