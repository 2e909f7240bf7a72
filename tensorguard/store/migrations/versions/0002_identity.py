"""Identity complete: manufacturer CAs, recovery, approvals, second factors, fleets' kill switch.

Revision ID: 0002
"""

from pathlib import Path

from alembic import op
from cryptography import x509

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create what is new; certificates that there are learn which CA has issued them."""
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((Path(__file__).parent / "0002_identity.sql").read_text())
    rows = driver.execute("SELECT serial, certificate FROM certificates").fetchall()
    with driver.cursor() as cursor:
        cursor.executemany(
            "UPDATE certificates SET authority_key_id = %s WHERE serial = %s",
            [(_authority_key_id(certificate), serial) for serial, certificate in rows],
        )
    driver.execute("ALTER TABLE certificates ALTER COLUMN authority_key_id SET NOT NULL")
    for spki, certificate in driver.execute(
        "SELECT spki_sha256, certificate FROM ca_certificates"
    ).fetchall():
        driver.execute(
            "UPDATE ca_certificates SET subject_key_id = %s WHERE spki_sha256 = %s",
            (_subject_key_id(certificate), spki),
        )
    driver.execute("ALTER TABLE ca_certificates ALTER COLUMN subject_key_id SET NOT NULL")
    driver.execute("ALTER TABLE ca_certificates ADD UNIQUE (subject_key_id)")


def _authority_key_id(pem: str) -> bytes | None:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return extension.value.key_identifier


def _subject_key_id(pem: str) -> bytes:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
