"""Deployments in stages: gates, schedules, approvals, rollbacks; and commands that are repeated.

Follows 0008, which was there first: databases that have it must get this one, too.

Revision ID: 0007
"""

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0008"


def upgrade() -> None:
    """Add what stages and rollbacks need, and say what was assigned already."""
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((Path(__file__).parent / "0007_rollouts.sql").read_text())
