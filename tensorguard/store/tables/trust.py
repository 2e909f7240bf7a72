"""What agents believe: CAs, signing keys, publishers, bundles of all of them."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, LargeBinary, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY

from tensorguard.store.tables.columns import TextC, Time, metadata

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
    Column("not_before", Time, nullable=False),
    Column("succeeds", TextC, ForeignKey("publishers.kid")),
    Column("revoked_reason", Text),
    Column("told_in", BigInteger, ForeignKey("trust_bundles.version")),
)
Index(
    "publishers_successor_key",
    publishers.c.succeeds,
    unique=True,
    postgresql_where=text("revoked_at IS NULL"),
)
