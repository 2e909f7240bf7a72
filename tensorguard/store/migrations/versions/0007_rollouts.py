"""Deployments in stages: gates, schedules, approvals, rollbacks; and commands that are repeated.

Revision ID: 0007
"""

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add what stages and rollbacks need, and say what was assigned already."""
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((Path(__file__).parent / "0007_rollouts.sql").read_text())
