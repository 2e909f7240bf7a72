import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tensorguard.pki.errors import BadKey
from tensorguard.pki.keys import (
    Ed25519Signer,
    Ed25519Verifier,
    kid_of,
    parse_x25519_private,
    parse_x25519_public,
)

# RFC 8032 section 7.1, TEST 2
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_signatures_are_those_of_rfc_8032() -> None:
    signer = Ed25519Signer.from_seed(SEED)
    assert signer.public_raw == PUBLIC
    assert signer.sign(b"\x72") == SIGNATURE
    assert signer.kid == kid_of(PUBLIC) == hashlib.sha256(PUBLIC).hexdigest()
    assert signer.seed() == SEED


def test_a_verifier_tells_its_own_signature_from_any_other() -> None:
    verifier = Ed25519Verifier(PUBLIC)
    assert verifier.verify(SIGNATURE, b"\x72")
    assert not verifier.verify(SIGNATURE, b"\x73")
    assert not verifier.verify(b"", b"\x72")
    assert not verifier.verify(Ed25519Signer.generate().sign(b"\x72"), b"\x72")


def test_a_signer_shows_no_secret_when_printed() -> None:
    assert SEED.hex()[:8] not in repr(Ed25519Signer.from_seed(SEED))


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33)])
def test_keys_of_another_length_are_refused(raw: bytes) -> None:
    for parse in (
        Ed25519Signer.from_seed,
        Ed25519Verifier,
        parse_x25519_public,
        parse_x25519_private,
    ):
        with pytest.raises(BadKey):
            parse(raw)


# The low-order points of Curve25519: https://cr.yp.to/ecdh.html#validate
@pytest.mark.parametrize(
    "raw",
    [
        bytes(32),
        b"\x01" + bytes(31),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ],
)
def test_a_low_order_point_is_refused_as_an_encryption_key(raw: bytes) -> None:
    with pytest.raises(BadKey):
        parse_x25519_public(raw)


def test_two_x25519_keys_agree_after_a_round_trip() -> None:
    ours, theirs = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    read = parse_x25519_private(ours.private_bytes_raw())
    public = parse_x25519_public(theirs.public_key().public_bytes_raw())
    assert read.exchange(public) == theirs.exchange(ours.public_key())
