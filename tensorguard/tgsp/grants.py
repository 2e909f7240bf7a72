"""Grants: the DEK sealed for one recipient, one package and one expiry (HPKE, RFC 9180)."""

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from tensorguard.tgsp import cbor
from tensorguard.tgsp.errors import (
    BadGrants,
    DuplicateRecipient,
    GrantExpired,
    GrantRefused,
    NoGrant,
    NotCanonical,
    UnknownGrantAlg,
)
from tensorguard.tgsp.keys import compute_kid

GRANT_ALG = "hpke-x25519-hkdf-sha256-aes-256-gcm"
DEK_BYTES = 32
SEALED_BYTES = 80  # 32 of encapsulated key, 32 of DEK, 16 of tag

_LABEL = b"tensorguard.tgsp/v1 grant\0"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of GRANTS; `exp` in unsigned seconds since 1970 UTC, 0 = none."""

    kid: bytes
    alg: str
    exp: int
    sealed: bytes


def seal_grant(
    dek: bytes, *, recipient: X25519PublicKey, manifest_digest: bytes, exp: int
) -> bytes:
    """Seal a 32-byte DEK for one recipient, bound to one package and expiry; gives 80 bytes.

    HPKE base mode does not say who sealed: a detached grant needs a signed statement around it.
    """
    if len(dek) != DEK_BYTES:
        raise ValueError("a DEK has 32 bytes")
    return _SUITE.encrypt(dek, recipient, _info(recipient, manifest_digest, exp))


def open_grant(
    sealed: bytes, *, recipient: X25519PrivateKey, manifest_digest: bytes, exp: int
) -> bytes:
    """Open a grant and give its DEK; whether `exp` is over is for the caller to judge.

    Raises:
        GrantRefused: sealed for another key, package or expiry, or damaged.
    """
    info = _info(recipient.public_key(), manifest_digest, exp)
    try:
        dek = _SUITE.decrypt(sealed, recipient, info)
    except (InvalidTag, ValueError) as error:
        raise GrantRefused("the grant does not open with this key for this package") from error
    if len(dek) != DEK_BYTES:
        raise GrantRefused("the grant holds no 32-byte DEK")
    return dek


def encode_grants(grants: list[Grant]) -> bytes:
    """Encode GRANTS."""
    return cbor.encode([msgspec.to_builtins(grant, builtin_types=(bytes,)) for grant in grants])


def decode_grants(data: bytes) -> tuple[Grant, ...]:
    """Decode GRANTS, which no signature covers.

    Raises:
        BadGrants: not the list that the format asks for.
        DuplicateRecipient: a recipient is named twice.
    """
    try:
        value = cbor.decode(data)
        if reason := cbor.find_foreign(value):
            raise BadGrants(f"GRANTS holds what the format does not have: {reason}")
        grants = msgspec.convert(value, tuple[Grant, ...], builtin_types=(bytes,))
    except NotCanonical as error:
        raise BadGrants(f"GRANTS is damaged: {error.message}") from error
    except msgspec.ValidationError as error:
        raise BadGrants(f"GRANTS is not as the format asks: {error}") from error
    if any(len(grant.kid) != 32 or grant.exp < 0 for grant in grants):
        raise BadGrants("a grant's kid has not 32 bytes, or its expiry is negative")
    if len({grant.kid for grant in grants}) != len(grants):
        raise DuplicateRecipient("GRANTS names a recipient twice")
    return grants


def open_embedded_grant(
    grants: tuple[Grant, ...],
    *,
    recipient: X25519PrivateKey,
    manifest_digest: bytes,
    now_s: int,
) -> bytes:
    """Find the recipient's grant among those of a package and give its DEK.

    Raises:
        NoGrant: none is for this key.
        UnknownGrantAlg: it is of an algorithm that this version does not know.
        GrantExpired: its time is over.
        GrantRefused: it does not open.
    """
    kid = compute_kid(recipient.public_key())
    grant = next((grant for grant in grants if grant.kid == kid), None)
    if grant is None:
        raise NoGrant(f"the package carries no grant for the key {kid.hex()}")
    if grant.alg != GRANT_ALG:
        raise UnknownGrantAlg(f"the grant is sealed by {grant.alg[:64]!a}")
    check_expiry(grant.exp, now_s=now_s)
    return open_grant(
        grant.sealed, recipient=recipient, manifest_digest=manifest_digest, exp=grant.exp
    )


def check_expiry(exp: int, *, now_s: int) -> None:
    """Refuse a grant whose time is over.

    Raises:
        GrantExpired: `exp` is set and has passed.
    """
    if exp and now_s > exp:
        raise GrantExpired("the grant's time is over")


def _info(recipient: X25519PublicKey, manifest_digest: bytes, exp: int) -> bytes:
    return _LABEL + manifest_digest + compute_kid(recipient) + exp.to_bytes(8, "big")
