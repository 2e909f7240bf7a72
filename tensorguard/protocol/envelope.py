"""Signed messages: DSSE envelopes, and what a receiver checks before it believes one.

Source: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md. The signature algorithm
is the caller's: a key is anything with `kid` and `sign` or `verify`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar
from uuid import UUID

import msgspec

from tensorguard.protocol import codec
from tensorguard.protocol.errors import (
    BadEnvelope,
    BadMessage,
    BadSignature,
    Expired,
    MessageTooLarge,
    UnknownSigner,
    WrongKind,
    WrongRecipient,
)
from tensorguard.protocol.messages import (
    CertificateIssued,
    Command,
    Desired,
    FleetConfig,
    Grant,
    Signed,
    TrustBundle,
)

T = TypeVar("T", bound=Signed)
# A trust bundle with many publishers is larger than an MQTT message may be.
MAX_ENVELOPE_BYTES = 1024 * 1024
SIGNED_KINDS: Mapping[type[Signed], str] = {
    Desired: "desired",
    Grant: "grant",
    CertificateIssued: "certificate",
    Command: "command",
    FleetConfig: "config",
    TrustBundle: "trust",
}


class Signer(Protocol):
    """A private signing key; `kid` is the hex SHA-256 of its raw public key."""

    @property
    def kid(self) -> str: ...
    def sign(self, message: bytes, /) -> bytes: ...


class Verifier(Protocol):
    """A public key that tells whether a signature over a message is its own."""

    def verify(self, signature: bytes, message: bytes, /) -> bool: ...


class Signature(msgspec.Struct, frozen=True):
    """One signature: the key by its kid, and 64 bytes."""

    keyid: str
    sig: bytes


class Envelope(msgspec.Struct, frozen=True, rename="camel"):
    """A DSSE envelope as it travels: payload and signatures in standard base64."""

    payload: bytes
    payload_type: str
    signatures: list[Signature]


def payload_type(kind: str) -> str:
    """Return the DSSE payload type of a message kind."""
    return f"application/vnd.tensorguard.{kind}.v1+json"


def pae(type_: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding, which is what gets signed."""
    name = type_.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def sign(message: Signed, signers: Sequence[Signer]) -> bytes:
    """Return the message as a DSSE envelope in JSON, signed by every signer."""
    type_ = payload_type(SIGNED_KINDS[type(message)])
    payload = codec.encode(message)
    to_sign = pae(type_, payload)
    signatures = [Signature(signer.kid, signer.sign(to_sign)) for signer in signers]
    return msgspec.json.encode(Envelope(payload, type_, signatures))


def countersign(raw: bytes, signers: Sequence[Signer]) -> bytes:
    """Return an envelope with further signatures; whoever has signed already signs once only.

    Raises: MessageTooLarge, BadEnvelope.
    """
    envelope = parse(raw)
    to_sign = pae(envelope.payload_type, envelope.payload)
    new = {signer.kid: Signature(signer.kid, signer.sign(to_sign)) for signer in signers}
    kept = [one for one in envelope.signatures if one.keyid not in new]
    return msgspec.json.encode(msgspec.structs.replace(envelope, signatures=[*kept, *new.values()]))


def parse(raw: bytes) -> Envelope:
    """Take a DSSE envelope apart without believing any of it.

    Raises: MessageTooLarge, BadEnvelope.
    """
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise MessageTooLarge(f"an envelope of {len(raw)} bytes; the limit is {MAX_ENVELOPE_BYTES}")
    try:
        envelope = msgspec.json.decode(raw, type=Envelope)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadEnvelope(f"not a DSSE envelope: {str(error)[:200]}") from None
    if len(envelope.signatures) > 32:
        raise BadEnvelope(f"{len(envelope.signatures)} signatures; at most 32 are read")
    return envelope


def valid_signers(envelope: Envelope, keys: Mapping[str, Verifier]) -> set[str]:
    """Return the key ids among `keys` whose signature is good.

    Raises: BadSignature if a known key's signature is bad: that is damage or forgery, never noise.
    """
    message = pae(envelope.payload_type, envelope.payload)
    good: set[str] = set()
    for signature in envelope.signatures:
        key = keys.get(signature.keyid)
        if key is None:
            continue
        if not key.verify(signature.sig, message):
            raise BadSignature(f"the signature of key {signature.keyid[:16]}… does not verify")
        good.add(signature.keyid)
    return good


def open_signed(
    raw: bytes,
    type_: type[T],
    *,
    keys: Mapping[str, Verifier],
    trust_domain: str,
    now: datetime,
    agent_id: UUID | None = None,
    fleet: str | None = None,
) -> T:
    """Return the message in a DSSE envelope after every check that a receiver owes.

    `keys` are those that the trust bundle gives this kind. `agent_id` and `fleet` are the
    receiver's own; a payload that names another is refused. The caller compares
    (epoch, revision).

    Raises: EnvelopeRefused (one of its kinds), MessageTooLarge.
    """
    envelope = parse(raw)
    expected = payload_type(SIGNED_KINDS[type_])
    if envelope.payload_type != expected:
        raise WrongKind(f"payload type {envelope.payload_type[:100]!r} where {expected!r} is due")
    if not valid_signers(envelope, keys):
        named = ", ".join(s.keyid[:16] for s in envelope.signatures) or "nobody"
        raise UnknownSigner(f"signed by {named}: no key that the trust bundle gives this kind")
    try:
        message = codec.decode(type_, envelope.payload)
    except BadMessage as error:
        raise BadEnvelope(error.message) from None
    _check_recipient(message, trust_domain, agent_id, fleet)
    if now >= message.expires_at:
        raise Expired(f"expired at {message.expires_at.isoformat()}, now is {now.isoformat()}")
    return message


def _check_recipient(
    message: Signed, trust_domain: str, agent_id: UUID | None, fleet: str | None
) -> None:
    if message.trust_domain != trust_domain:
        raise WrongRecipient(f"from trust domain {message.trust_domain[:100]!r}")
    if isinstance(message, FleetConfig):
        if message.fleet != fleet:
            raise WrongRecipient(f"for fleet {message.fleet[:64]!r}")
    elif not isinstance(message, TrustBundle) and getattr(message, "agent_id", None) != agent_id:
        raise WrongRecipient("for another agent")
