"""A second writer of TGSP/1, from docs/tgsp.md alone: no code of tensorguard, all in memory."""

import os
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.contract.tgsp.independent_reader import SUITE, TYPE, cbor, sha256


def encrypt(dek: bytes, context: bytes, plain: bytes) -> bytes:
    salt = os.urandom(24)
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
    derived = HKDFExpand(SHA512(), 76, info).derive(dek)
    cipher, nonce = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big")
    chunks = [plain[at : at + 16384] for at in range(0, len(plain) + 1, 16384)]
    sealed = [
        cipher.encrypt((nonce ^ number).to_bytes(12, "big"), chunk, None)
        for number, chunk in enumerate(chunks)
    ]
    return salt + derived[44:] + b"".join(sealed)


def write(
    files: dict[str, bytes], publisher: Ed25519PrivateKey, recipient: X25519PublicKey, **more: Any
) -> bytes:
    """Give a package of the files; `more` are keys of the manifest."""
    listed, plain = [], b""
    for path in sorted(files):
        content = files[path]
        entry = {"path": path, "size": len(content), "offset": len(plain)}
        listed.append(entry | {"sha256": sha256(content)})
        plain += content
    rest: dict[str, Any] = {
        "v": 1,
        "package_id": os.urandom(16),
        "name": "model",
        "version": "1.0.0",
        "seq": 1,
        "created": 0,
        "not_before": 0,
        "not_after": 0,
        "target": {"fleets": [], "selector": "", "hardware": []},
        "min_agent": "",
        "policy": {},
        "provenance": {},
    } | more
    dek = os.urandom(32)
    label = b"tensorguard.tgsp/v1 payload\0"
    payload = encrypt(dek, label + rest["package_id"] + sha256(cbor(rest)), plain)
    described = {
        "alg": "cobblestone-256",
        "size": len(plain),
        "ciphertext_size": len(payload),
        "sha256": sha256(payload),
    }
    manifest = cbor(rest | {"files": listed, "payload": described})
    pae = b"DSSEv1 %d %b %d %b" % (len(TYPE), TYPE, len(manifest), manifest)
    signer = sha256(publisher.public_key().public_bytes_raw())
    sigs = cbor([{"kid": signer, "alg": "ed25519", "sig": publisher.sign(pae)}])
    kid = sha256(recipient.public_bytes_raw())
    info = b"tensorguard.tgsp/v1 grant\0" + sha256(manifest) + kid + bytes(8)
    grant = {"kid": kid, "alg": "hpke-x25519-hkdf-sha256-aes-256-gcm", "exp": 0}
    grants = cbor([grant | {"sealed": SUITE.encrypt(dek, recipient, info)}])
    return b"".join(
        [
            bytes.fromhex("89544753500d0a1a"),
            *(len(part).to_bytes(4, "big") + part for part in (manifest, sigs, grants)),
            len(payload).to_bytes(8, "big"),
            payload,
        ]
    )
