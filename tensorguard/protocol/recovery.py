"""Coming back after the certificate's end, by proof of its key: what is asked and answered."""

import hashlib
from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from tensorguard.protocol.messages import Message, Timestamp

_LABEL = "tensorguard.recover.v1"


class RecoveryChallenge(Message, frozen=True, kw_only=True):
    """`GET /device/v1/recover/challenge`: what the proof of a recovery has to contain."""

    challenge: str
    expires_at: Timestamp


class RecoverRequest(Message, frozen=True, kw_only=True):
    """`POST /device/v1/recover`: the certificate that has ended, and a request for a new key.

    `proof` is a DER ECDSA-SHA256 signature by the old key over `proof_text`.
    """

    certificate: Annotated[str, Meta(max_length=8192)]
    csr: Annotated[str, Meta(max_length=8192)]
    challenge: Annotated[str, Meta(max_length=200)]
    proof: Annotated[bytes, Meta(max_length=128)]


class RecoveryPending(Message, frozen=True, kw_only=True):
    """`202`: an operator has to approve; ask again with the same csr after `poll_after_s`."""

    agent_id: UUID
    poll_after_s: int
    status: Literal["pending"] = "pending"


class Recovered(Message, frozen=True, kw_only=True):
    """`201`: the certificate for the new key; the identity is the same."""

    agent_id: UUID
    fleet: str
    certificate: str
    status: Literal["active"] = "active"


def proof_text(challenge: str, csr: str) -> bytes:
    """Return what a proof signs: a label, the challenge, and the hex SHA-256 of the csr's text,
    each on a line of its own, the last without an end."""
    digest = hashlib.sha256(csr.encode()).hexdigest()
    return f"{_LABEL}\n{challenge}\n{digest}".encode()
