"""The device's side of a certificate renewal: a new key first, both in use at once."""

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.runtime import keys
from agent.runtime.statedir import AGENT_PEM, PENDING_KEY, StateDir
from tensorguard.pki.bundle import TrustStore
from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import AgentIdentity, verify_peer
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
    """Put the pending key and its certificate in place of the old ones, in one rename.

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
    if not isinstance(peer.identity, AgentIdentity) or peer.identity.agent_id != identity.agent_id:
        raise CertificateNotUsable("the certificate names another agent")
    directory.write(AGENT_PEM, keys.private_pem(key) + certificate_pem(leaf).encode())
    directory.remove(PENDING_KEY)
    return leaf
