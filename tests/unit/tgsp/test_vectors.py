"""Known answers: chunked encryption (c2sp.org) and HPKE (RFC 9180), from cryptography_vectors."""

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.bindings._rust import openssl as rust_openssl
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tensorguard.tgsp import grants
from tensorguard.tgsp.manifest import compute_ciphertext_size, compute_context
from tensorguard.tgsp.opener import unwrap_embedded
from tests.unit.tgsp.builders import CONTENT, NOW, Forge

CHUNK = 16384 + 16
CIPHERS: dict[str, tuple[type[AESGCM] | type[ChaCha20Poly1305], int]] = {
    "AEAD_AES_128_GCM": (AESGCM, 16),
    "AEAD_AES_256_GCM": (AESGCM, 32),
    "AEAD_CHACHA20_POLY1305": (ChaCha20Poly1305, 32),
}


def load(name: str) -> Any:
    return json.loads(Path(cryptography_vectors.__path__[0], name).read_bytes())


def decrypt(aead: str, hash_: HashAlgorithm, key: bytes, context: bytes, data: bytes) -> bytes:
    """A second, plain reading of c2sp.org/chunked-encryption@v1. Raises: ValueError, InvalidTag."""
    cipher, key_bytes = CIPHERS[aead]
    salt, commitment, chunks = data[:24], data[24:56], data[56:]
    if len(key) != key_bytes or len(data) < 56 + 16 or len(chunks) % CHUNK == 0:
        raise ValueError("wrong length, or truncated")
    info = b"c2sp.org/chunked-encryption@v1+" + aead.encode() + b"\0" + salt + context
    derived = HKDFExpand(hash_, key_bytes + 12 + 32, info).derive(key)
    if derived[key_bytes + 12 :] != commitment:
        raise ValueError("wrong commitment")
    opened = cipher(derived[:key_bytes])
    nonce = int.from_bytes(derived[key_bytes : key_bytes + 12], "big")
    return b"".join(
        opened.decrypt((nonce ^ number).to_bytes(12, "big"), chunks[at : at + CHUNK], None)
        for number, at in enumerate(range(0, len(chunks), CHUNK))
    )


VECTORS = load("chunked-encryption/vectors.json")["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_the_reference_reads_the_published_vectors(vector: dict[str, Any]) -> None:
    data = base64.b64decode(vector["ciphertext"] or "")
    if vector.get("compressed"):
        data = zlib.decompress(data)
    given = (
        vector["aead"],
        SHA256(),
        bytes.fromhex(vector["key"]),
        vector["context"].encode(),
        data,
    )
    if vector["expect"] == "success":
        plain = decrypt(*given)
        assert len(plain) == vector["payload_length"]
        assert hashlib.sha256(plain).hexdigest() == vector["payload_sha256"]
    else:
        with pytest.raises((ValueError, InvalidTag)):
            decrypt(*given)


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 49152, 50_000])
def test_cobblestone_is_what_the_reference_reads(size: int) -> None:
    key, plain = Cobblestone256Encryptor.generate_key(), hashlib.shake_128(b"x").digest(size)
    encryptor = Cobblestone256Encryptor(key, b"context\0")
    data = encryptor.update(plain) + encryptor.finalize()
    assert decrypt("AEAD_AES_256_GCM", SHA512(), key, b"context\0", data) == plain
    assert len(data) == compute_ciphertext_size(size)


def test_a_payload_is_what_the_reference_reads(forge: Forge) -> None:
    forge.build()
    header, payload = forge.read()
    dek = unwrap_embedded(forge.recipient, NOW)(header)
    context = compute_context(header.manifest)
    assert decrypt("AEAD_AES_256_GCM", SHA512(), dek, context, payload) == CONTENT


def test_grants_use_the_suite_of_rfc_9180() -> None:
    """Base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM: ids 0, 32, 1, 2."""
    (vector,) = (
        vector
        for vector in load("HPKE/test-vectors.json")
        if (vector["mode"], vector["kem_id"], vector["kdf_id"], vector["aead_id"]) == (0, 32, 1, 2)
    )
    first = vector["encryptions"][0]
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["skRm"]))
    # The vectors have associated data, which the public interface does not offer.
    plain = rust_openssl.hpke._decrypt_with_aad(
        grants._SUITE,
        bytes.fromhex(vector["enc"] + first["ct"]),
        key,
        bytes.fromhex(vector["info"]),
        bytes.fromhex(first["aad"]),
    )
    assert plain == bytes.fromhex(first["pt"])


def test_a_grant_is_what_the_page_says(forge: Forge) -> None:
    built = forge.build()
    header, _ = forge.read()
    (grant,) = header.grants
    raw = forge.recipient.public_key().public_bytes_raw()
    info = (
        b"tensorguard.tgsp/v1 grant\0"
        + built.digest
        + hashlib.sha256(raw).digest()
        + (0).to_bytes(8, "big")
    )
    dek = unwrap_embedded(forge.recipient, NOW)(header)
    assert grants._SUITE.decrypt(grant.sealed, forge.recipient, info) == dek
