"""The key vault: KEKs, their versions, and the jobs that rewrap secrets.

Revision ID: 0004
"""

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create what the vault keeps, and enter the KEK that secrets are under."""
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((Path(__file__).parent / "0004_vault.sql").read_text())
