"""What a NATS server reads from disk: its certificate with the key, and the CAs it believes."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker.certificate import FrontCertificate
from broker.nats.configuration import Files
from broker.nats.errors import NodeError
from tensorguard.pki.issuer import certificate_pem
from tensorguard.services.keys.keyring import Keyring
from tensorguard.vault.errors import VaultError
from tensorguard.vault.private_file import replace_private


class NodeCertificate(FrontCertificate):
    """Asked for like a front's, and written to where the server reads it, each time anew."""

    def __init__(
        self,
        database_url: str,
        keyring: Keyring,
        *,
        instance: str,
        hosts: Sequence[str],
        clock: Callable[[], datetime],
        files: Files,
        on_change: Callable[[], None],
    ) -> None:
        super().__init__(database_url, keyring, instance=instance, hosts=hosts, clock=clock)
        self._files = files
        self._on_change = on_change

    def present(
        self,
        private_key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        issued_at: datetime,
    ) -> None:
        """Show this certificate from now on. Raises: NodeError where it cannot be written."""
        key_pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pair = certificate_pem(certificate).encode("ascii") + key_pem
        _write(self._files.certificate, pair)
        super().present(private_key, certificate, issued_at)
        self._on_change()


def write_cas(files: Files, cas: Sequence[x509.Certificate]) -> None:
    """Write whom the server believes. Raises: NodeError."""
    _write(files.cas, "".join(map(certificate_pem, cas)).encode("ascii"))


def write_configuration(path: Path, text: str) -> None:
    """Write what the server is to read at start and at every reload. Raises: NodeError."""
    _write(path, text.encode())


def _write(path: Path, content: bytes) -> None:
    try:
        replace_private(path, content)
    except VaultError as error:
        raise NodeError(error.message, hint=error.hint) from None
