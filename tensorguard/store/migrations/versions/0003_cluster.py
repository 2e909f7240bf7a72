"""The cluster: hubs and what each reads of the uplinks; heartbeats rolled up by minute, hour, day.

Revision ID: 0003
"""

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"

# Name, length, where it comes from and by which column.
_ROLLUPS = (
    ("1m", "1 minute", "heartbeats", "received_at"),
    ("1h", "1 hour", "heartbeats_1m", "bucket"),
    ("1d", "1 day", "heartbeats_1h", "bucket"),
)


def upgrade() -> None:
    """Create what several hubs share, and the rollups as this database's engine keeps them."""
    here = Path(__file__).parent
    # Past SQLAlchemy, which would read every % as a placeholder.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((here / "0003_cluster.sql").read_text())
    (engine,) = driver.execute("SELECT engine FROM platform").fetchone()
    driver.execute((here / f"0003_{engine}.sql").read_text())
    for name, length, source, column in _ROLLUPS:
        kind = "heartbeats" if source == "heartbeats" else "rollup"
        figures = (here / f"0003_{kind}_figures.sql").read_text().strip()
        rollup = (here / f"0003_{engine}_rollup.sql").read_text()
        values = {"name": name, "length": length, "source": source, "column": column}
        for key, value in {**values, "figures": figures}.items():
            rollup = rollup.replace("{{" + key + "}}", value)
        driver.execute(rollup)
