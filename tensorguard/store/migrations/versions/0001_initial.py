"""The first schema; heartbeats become a hypertable where TimescaleDB is installed.

Revision ID: 0001
"""

from pathlib import Path

from alembic import op

from tensorguard.store.migrate import find_timescale

revision = "0001"
down_revision = None

_HYPERTABLE = (
    "WITH (tsdb.hypertable, tsdb.partition_column = 'received_at',"
    " tsdb.chunk_interval = '1 day', tsdb.create_default_indexes = false)"
)


def upgrade() -> None:
    """Create everything and record which engine keeps the heartbeats."""
    here = Path(__file__).parent
    connection = op.get_bind()
    timescale = find_timescale(connection) is not None
    engine = "timescale" if timescale else "native"
    partitioning = _HYPERTABLE if timescale else "PARTITION BY RANGE (received_at)"
    heartbeats = (here / "0001_heartbeats.sql").read_text()
    # Past SQLAlchemy, which would read every % as a placeholder.
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute((here / "0001_initial.sql").read_text())
    driver.execute(heartbeats.replace("{{partitioning}}", partitioning))
    driver.execute("INSERT INTO platform (engine) VALUES (%s)", (engine,))
