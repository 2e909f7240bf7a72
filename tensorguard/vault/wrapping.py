"""Key material wrapped for its import, on a machine that may be offline."""

import os
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding as aes_unwrap
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding as aes_wrap
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from tensorguard.vault.errors import Corrupted, ImportRefused
from tensorguard.vault.provider import ImportParameters, WrappingAlgorithm

MATERIAL_BYTES: Final = 32
_MIN_RSA_BITS: Final = 2048
_OAEP: Final = OAEP(mgf=MGF1(SHA256()), algorithm=SHA256(), label=None)
# What Azure's key transfer blob prescribes; as a padding SHA-1 is not broken (RFC 8017, 7.1).
_OAEP_SHA1: Final = OAEP(mgf=MGF1(SHA1()), algorithm=SHA1(), label=None)  # noqa: S303 as above


class WrappedMaterial(msgspec.Struct, frozen=True, kw_only=True):
    """What the customer sends back: the wrapped material, and what it was wrapped for."""

    v: int = 1
    provider: str
    key_id: str
    token: str
    wrapped: bytes


def wrap_material(parameters: ImportParameters, material: bytes) -> bytes:
    """Wrap material so that only whoever made the import parameters can read it.

    RSAES-OAEP with SHA-256 (RFC 8017), or RSA AES key wrap (PKCS #11 CKM_RSA_AES_KEY_WRAP: an AES
    key under RSAES-OAEP with SHA-1, then the material under that key as in RFC 5649).
    Raises: ImportRefused, Corrupted.
    """
    key = load_wrapping_key(parameters.public_key_pem)
    if parameters.material == "rsa-private-key":
        material = _pkcs8(material)
    elif len(material) != MATERIAL_BYTES:
        raise ImportRefused(
            f"a KEK has {MATERIAL_BYTES} bytes, not {len(material)}",
            hint="Import raw key material of 256 bits.",
        )
    if parameters.algorithm == "rsa-oaep-sha256":
        return key.encrypt(material, _OAEP)
    transport = os.urandom(32)
    return key.encrypt(transport, _OAEP_SHA1) + aes_wrap(transport, material)


def unwrap_material(key: RSAPrivateKey, wrapped: bytes, algorithm: WrappingAlgorithm) -> bytes:
    """Undo `wrap_material` with the private key. Raises: ImportRefused."""
    size = key.key_size // 8
    try:
        if algorithm == "rsa-oaep-sha256":
            return key.decrypt(wrapped, _OAEP)
        return aes_unwrap(key.decrypt(wrapped[:size], _OAEP_SHA1), wrapped[size:])
    except Exception:  # any reason is the same to whoever asks, or it would be an oracle
        raise ImportRefused("the material was not wrapped for these import parameters") from None


def load_wrapping_key(pem: str) -> RSAPublicKey:
    """The public key of import parameters. Raises: Corrupted."""
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError:
        key = None
    if not isinstance(key, RSAPublicKey) or key.key_size < _MIN_RSA_BITS:
        raise Corrupted("the import parameters hold no RSA public key")
    return key


def _pkcs8(pem: bytes) -> bytes:
    """An RSA private key as PKCS #8 DER. Raises: ImportRefused."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise ImportRefused(
            "the material is not an RSA private key in PEM form without a passphrase",
            hint="Make one with 'tensorguard keys wrap-for-import --generate'.",
        ) from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < _MIN_RSA_BITS:
        raise ImportRefused("the material is not an RSA private key of at least 2,048 bits")
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
