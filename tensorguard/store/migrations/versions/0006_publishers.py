"""Publishers: from when they count, whom they follow, and which bundle says so.

Revision ID: 0006
"""

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add what rotation needs, and find out what the bundles so far have said."""
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((Path(__file__).parent / "0006_publishers.sql").read_text())
