"""Packages, releases and their way to the agents."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from tensorguard.store.tables.columns import TextC, Time, metadata

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
package_uploads = Table(
    "package_uploads",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("length_bytes", BigInteger),
    Column("metadata", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("store_handle", Text),
    Column("writer", Uuid),
    Column("lease_until", Time),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("verified_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("code", Text),
    Column("message", Text),
    Column("hint", Text),
    Column("package_digest", LargeBinary, ForeignKey("packages.digest")),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_by_kind", Text, nullable=False),
    Column("expires_at", Time, nullable=False),
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
    Column("start_at", Time),
    Column("approval_id", Uuid, ForeignKey("approvals.id")),
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
    Column("due", Integer),
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
    Column("assigned_at", Time),
    Column("rollback", Text),
    Column("rollback_reason", Text, nullable=False, server_default=text("''")),
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
Index("packages_uploaded_idx", packages.c.uploaded_at, packages.c.digest)
Index("packages_publisher_idx", packages.c.publisher_kid, packages.c.uploaded_at)
Index("deployments_state_idx", deployments.c.state, deployments.c.id)
Index("deployment_agents_agent_idx", deployment_agents.c.agent_id)
Index(
    "agent_desired_unsent_idx", agent_desired.c.agent_id, postgresql_where=text("sent_at IS NULL")
)
