"""The platform itself, and what its services own of the work."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from tensorguard.store.tables.columns import TextC, Time, metadata

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
broker_fronts = Table(
    "broker_fronts",
    metadata,
    Column("id", TextC, primary_key=True),
    Column("address", Text, nullable=False),
    Column("started_at", Time, nullable=False),
    Column("lease_until", Time, nullable=False),
    Column("applied_seq", BigInteger, nullable=False),
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
