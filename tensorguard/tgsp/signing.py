"""Publisher signatures over the manifest: DSSE pre-authentication encoding, Ed25519."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tensorguard.protocol.envelope import pae
from tensorguard.tgsp import cbor
from tensorguard.tgsp.errors import (
    BadSignature,
    BadSigs,
    DuplicateSigner,
    NotCanonical,
    PublisherExpired,
    PublisherNotAllowed,
    PublisherNotYetValid,
    SignatureError,
    UnknownPublisher,
    UnknownSignatureAlg,
    Unsigned,
)
from tensorguard.tgsp.keys import compute_kid
from tensorguard.tgsp.manifest import MANIFEST_TYPE
from tensorguard.tgsp.window import format_time

SIGNATURE_ALG = "ed25519"


class PublisherKey:
    """A publisher key that the verifier already holds.

    `names` are the package names it may sign (`*` at the end: a prefix). It counts from
    `not_before` on and before `not_after`, both in seconds since 1970 UTC, 0 = none.
    """

    def __init__(
        self,
        key: Ed25519PublicKey,
        *,
        names: Sequence[str] = ("*",),
        not_before: int = 0,
        not_after: int = 0,
    ) -> None:
        self.key = key
        self.kid = compute_kid(key)
        self.names = tuple(names)
        self.not_before = not_before
        self.not_after = not_after

    def may_sign(self, name: str) -> bool:
        """Whether this publisher may sign packages of that name."""
        return covers(self.names, name)

    def check_window(self, now_s: int) -> None:
        """Raises: PublisherNotYetValid, PublisherExpired."""
        if now_s < self.not_before:
            raise PublisherNotYetValid(
                f"publisher {self.kid.hex()} is valid from {format_time(self.not_before)}"
            )
        if self.not_after and now_s >= self.not_after:
            raise PublisherExpired(
                f"publisher {self.kid.hex()} was valid until {format_time(self.not_after)}"
            )


def covers(names: Sequence[str], name: str) -> bool:
    """Whether a publisher of these `names` may sign packages of that name."""
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
        for pattern in names
    )


Publishers = Iterable[PublisherKey] | Mapping[bytes, PublisherKey]


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of SIGS."""

    kid: bytes
    alg: str
    sig: bytes


def sign(manifest_bytes: bytes, publisher: Ed25519PrivateKey) -> Signature:
    """Sign manifest bytes as one publisher."""
    sig = publisher.sign(pae(MANIFEST_TYPE, manifest_bytes))
    return Signature(kid=compute_kid(publisher.public_key()), alg=SIGNATURE_ALG, sig=sig)


def encode_signatures(signatures: Sequence[Signature]) -> bytes:
    """Encode SIGS."""
    return cbor.encode([msgspec.to_builtins(entry, builtin_types=(bytes,)) for entry in signatures])


def decode_signatures(data: bytes) -> tuple[Signature, ...]:
    """Decode SIGS without believing any of it.

    Raises:
        BadSigs: not the list that the format asks for.
        DuplicateSigner: the same kid and alg twice.
    """
    try:
        value = cbor.decode(data)
        if reason := cbor.find_foreign(value):
            raise BadSigs(f"SIGS holds what the format does not have: {reason}")
        signatures = msgspec.convert(value, tuple[Signature, ...], builtin_types=(bytes,))
    except NotCanonical as error:
        raise BadSigs(f"SIGS is damaged: {error.message}") from error
    except msgspec.ValidationError as error:
        raise BadSigs(f"SIGS is not as the format asks: {error}") from error
    if any(len(entry.kid) != 32 for entry in signatures):
        raise BadSigs("a signature's kid has not 32 bytes")
    if len({(entry.kid, entry.alg) for entry in signatures}) != len(signatures):
        raise DuplicateSigner("SIGS names a publisher twice")
    return signatures


def verify_signatures(
    manifest_bytes: bytes,
    signatures: Sequence[Signature],
    publishers: Publishers,
    *,
    now_s: int,
) -> tuple[PublisherKey, ...]:
    """Give the held publisher keys that have signed the manifest bytes, at least one.

    Entries of an unknown kid or algorithm, and of keys whose time it is not, are ignored; and named
    when nothing is left.

    Raises:
        Unsigned: there is no entry.
        PublisherNotYetValid, PublisherExpired: a held key has signed, but it is not its time.
        UnknownPublisher: no entry is by a held key.
        UnknownSignatureAlg: none is, and one names a held key with another algorithm.
        BadSignature: a held key's signature does not verify.
    """
    if not signatures:
        raise Unsigned("the package carries no signature")
    held = publishers.values() if isinstance(publishers, Mapping) else publishers
    known = {key.kid: key for key in held}
    message = pae(MANIFEST_TYPE, manifest_bytes)
    signers: list[PublisherKey] = []
    untimely: SignatureError | None = None
    for entry in signatures:
        publisher = known.get(entry.kid)
        if publisher is None or entry.alg != SIGNATURE_ALG:
            continue
        try:
            publisher.key.verify(entry.sig, message)
        except InvalidSignature as error:
            raise BadSignature(
                f"the signature of publisher {entry.kid.hex()} does not verify"
            ) from error
        try:
            publisher.check_window(now_s)
        except SignatureError as error:
            untimely = untimely or error
        else:
            signers.append(publisher)
    if signers:
        return tuple(signers)
    if untimely:
        raise untimely
    ignored = ", ".join(f"{entry.alg[:32]!a} by {entry.kid.hex()}" for entry in signatures[:8])
    if any(entry.kid in known for entry in signatures):
        raise UnknownSignatureAlg(f"no held publisher key is used with Ed25519: {ignored}")
    raise UnknownPublisher(f"no signature is by a held publisher key: {ignored}")


def check_allowed(name: str, signers: Sequence[PublisherKey]) -> None:
    """Accept a package name that at least one of its signers may sign.

    Raises:
        PublisherNotAllowed: none may.
    """
    if not any(signer.may_sign(name) for signer in signers):
        raise PublisherNotAllowed(f"no signer may sign packages named {name!r}")
