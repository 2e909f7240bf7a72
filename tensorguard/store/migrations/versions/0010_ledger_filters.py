"""Indexes for lists, counts and exports of ledger entries by actor, fleet and outcome.

Revision ID: 0010
"""

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the indexes."""
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((Path(__file__).parent / "0010_ledger_filters.sql").read_text())
