"""The Evidence Locker: epochs of the ledger, what devices saw of it, keys of private fields.

Revision ID: 0008
"""

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Number the ledger's epochs, and make the tables that stand beside the tree."""
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((Path(__file__).parent / "0008_evidence.sql").read_text())
