"""The device's side of a renewal: a new key first, then both certificates until one has proven."""

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.core.settings import Certified
from agent.runtime import keys
from agent.runtime.statedir import AGENT_PEM, NEXT_PEM, PENDING_KEY, StateDir
from tensorguard.pki.bundle import TrustStore
from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import (
    AgentIdentity,
    authority_key_id,
    identity_from_certificate,
    verify_peer,
)
from tensorguard.pki.issuer import certificate_pem


class CertificateNotUsable(Exception):
    """A certificate is not for our pending key, or not from our platform for this agent."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def begin(directory: StateDir) -> str:
    """Make a new key, have it on disk, and return its signing request. Raises: StateNotWritable."""
    return keys.make_csr(keys.make_pending_key(directory))


def install(
    directory: StateDir, pem: str, trust: TrustStore, identity: AgentIdentity, system: datetime
) -> x509.Certificate:
    """Put the pending key and its certificate beside the ones in use, in one file.

    The certificate has to name exactly `identity`.
    Raises: CertificateNotUsable, StateDamaged, StateNotWritable.
    """
    key = keys.find_pending_key(directory)
    if key is None:
        raise CertificateNotUsable("there is no key that waits for a certificate")
    try:
        leaf = x509.load_pem_x509_certificate(pem.encode())
        now = max(system, leaf.not_valid_before_utc)
        peer = verify_peer(leaf.public_bytes(Encoding.DER), trust.cas, trust.trust_domain, now)
    except PkiError as error:
        raise CertificateNotUsable(f"{error.code}: {error.message}") from error
    except ValueError:
        raise CertificateNotUsable("the certificate cannot be read") from None
    if leaf.public_key() != key.public_key():
        raise CertificateNotUsable("the certificate is not for the key that waits for one")
    if peer.identity != identity:
        raise CertificateNotUsable("the certificate names another agent or fleet")
    directory.write(NEXT_PEM, keys.private_pem(key) + certificate_pem(leaf).encode())
    directory.remove(PENDING_KEY)
    return leaf


def promote(directory: StateDir) -> None:
    """Use the newer key and certificate, which have connected, from now on; the old ones go.

    Raises: StateNotWritable.
    """
    directory.replace(AGENT_PEM, NEXT_PEM)


def find_next(directory: StateDir) -> Certified | None:
    """Return the newer certificate that has yet to connect; None if there is none that could."""
    data = directory.find(NEXT_PEM)
    if data is None:
        return None
    try:
        leaf = x509.load_pem_x509_certificate(data)
        identity = identity_from_certificate(leaf)
    except (ValueError, PkiError):
        return None
    return certified(leaf, identity) if isinstance(identity, AgentIdentity) else None


def certified(leaf: x509.Certificate, identity: AgentIdentity) -> Certified:
    """Return what the core has to know of a certificate."""
    return Certified(
        identity, leaf.not_valid_before_utc, leaf.not_valid_after_utc, authority_key_id(leaf)
    )
