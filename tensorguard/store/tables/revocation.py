"""The kill switch: orders, and the receipts of the fronts."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text, Uuid, text

from tensorguard.store.tables.columns import TextC, Time, metadata

revocations = Table(
    "revocations",
    metadata,
    Column("seq", BigInteger, primary_key=True),
    Column("agent_id", Uuid),
    Column("serial", Text),
    Column("reason", Text, nullable=False),
    Column("revoked_at", Time, nullable=False),
    Column("revoked_by", Text, nullable=False),
    Column("not_after", Time),
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
Index("revocations_agent_idx", revocations.c.agent_id)
Index("revocations_revoked_at_idx", revocations.c.revoked_at)
Index(
    "revocations_not_after_idx",
    revocations.c.not_after,
    postgresql_where=text("not_after IS NOT NULL"),
)
Index("fleet_revocations_fleet_idx", fleet_revocations.c.fleet, fleet_revocations.c.id)
