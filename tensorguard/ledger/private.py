"""Private fields of an entry: encrypted under a key of their subject, which can be destroyed.

The ciphertext is part of the hashed entry and stays for ever; without the key it says nothing.
"""

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tensorguard.ledger.errors import LedgerError

KEY_BYTES = 32
NONCE_BYTES = 12
KID_BYTES = 16


class BadPrivate(LedgerError):
    """An entry's private fields do not open with this key."""

    code = "bad-private"
    hint = "The key is another subject's, or the fields were moved from another entry."


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A fresh key of one subject, by its random id."""

    kid: str
    key: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "PrivateKey":
        """Return a new random key."""
        return cls(os.urandom(KID_BYTES).hex(), os.urandom(KEY_BYTES))


def seal_private(key: PrivateKey, entry_id: UUID, fields: Mapping[str, object]) -> dict[str, str]:
    """Return what stands in the entry: `{kid, nonce, ct}`, AES-256-GCM bound to the entry's id."""
    nonce = os.urandom(NONCE_BYTES)
    plain = msgspec.json.encode(dict(fields), order="sorted")
    sealed = AESGCM(key.key).encrypt(nonce, plain, str(entry_id).encode())
    return {
        "kid": key.kid,
        "nonce": base64.b64encode(nonce).decode(),
        "ct": base64.b64encode(sealed).decode(),
    }


def open_private(key: bytes, entry_id: UUID, private: Mapping[str, str]) -> dict[str, object]:
    """Return the fields. Raises: BadPrivate."""
    try:
        nonce = base64.b64decode(private["nonce"], validate=True)
        sealed = base64.b64decode(private["ct"], validate=True)
        plain = AESGCM(key).decrypt(nonce, sealed, str(entry_id).encode())
        return msgspec.json.decode(plain, type=dict[str, object])
    except (InvalidTag, KeyError, ValueError, binascii.Error) as error:
        raise BadPrivate(f"the private fields of entry {entry_id} do not open") from error
