"""The device's side of a recovery: a proof by the key of the certificate that has ended."""

import ssl
from dataclasses import dataclass
from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.runtime import keys
from agent.runtime.https import request
from agent.runtime.statedir import AGENT_PEM, StateDir
from tensorguard.pki.issuer import certificate_pem
from tensorguard.protocol import codec
from tensorguard.protocol.errors import ProtocolError
from tensorguard.protocol.recovery import (
    Recovered,
    RecoverRequest,
    RecoveryChallenge,
    RecoveryPending,
    proof_text,
)

_PATH = "/device/v1/recover"


@dataclass(frozen=True, slots=True)
class RecoveryAnswer:
    """A certificate, or why there is none; `refused` where asking again soon is no use."""

    certificate: str | None = None
    refused: bool = False
    reason: str = ""


def ask(
    directory: StateDir,
    device_url: str,
    csr: str,
    tls: ssl.SSLContext,
    agent_time: datetime | None,
) -> RecoveryAnswer:
    """Ask the platform for a certificate in place of the one in use, which has ended.

    Raises: Unreachable, NotTheServer, NotEnrolled, StateDamaged.
    """
    data = directory.get(AGENT_PEM)
    key = keys.load_tls_key(data)
    try:
        certificate = certificate_pem(x509.load_pem_x509_certificate(data))
        answer = request(tls, device_url, f"{_PATH}/challenge", agent_time=agent_time)
        challenge = codec.decode(RecoveryChallenge, answer.body).challenge
        body = RecoverRequest(
            certificate=certificate,
            csr=csr,
            challenge=challenge,
            proof=key.sign(proof_text(challenge, csr), ec.ECDSA(hashes.SHA256())),
        )
        answer = request(
            tls,
            device_url,
            _PATH,
            method="POST",
            body=msgspec.json.encode(body),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            agent_time=agent_time,
        )
        if answer.status == 201:
            return RecoveryAnswer(codec.decode(Recovered, answer.body).certificate)
        if answer.status == 202:
            codec.decode(RecoveryPending, answer.body)
            return RecoveryAnswer(reason="an operator has to approve it")
    except (ProtocolError, ValueError) as error:
        return RecoveryAnswer(reason=f"the answer cannot be read: {error}")
    problem = answer.problem()
    # 429 and 5xx pass; any other refusal is a decision.
    refused = 400 <= answer.status < 500 and answer.status != 429
    return RecoveryAnswer(None, refused, f"{problem.kind}: {problem.detail}")
