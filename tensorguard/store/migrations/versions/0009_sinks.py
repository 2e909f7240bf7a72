"""Sinks: where ledger entries are sent, how far each has come, and what none of them would take.

Revision ID: 0009
"""

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make the tables of sinks and dead letters."""
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((Path(__file__).parent / "0009_sinks.sql").read_text())
