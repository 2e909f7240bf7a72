"""What may be forgotten: keys of old events, and denials of certificates that have ended.

Revision ID: 0011
"""

from pathlib import Path

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make the indexes, the column, and the only way to delete a denial."""
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((Path(__file__).parent / "0011_forgetting.sql").read_text())
