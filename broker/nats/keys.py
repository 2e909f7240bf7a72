"""The keys of the auth callout: what signs its answers, and what seals both directions.

Every responder has the same two; a NATS server is configured with their public halves. The names
are NATS's: an nkey is an Ed25519 key, an xkey a Curve25519 one, in base32 with a checksum.
"""

import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

import nkeys
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey
from nacl.signing import SigningKey

from broker.errors import FrontError

_CURVE: Final = 23 << 3  # base32-encodes to `X`
_SEALED: Final = b"xkv1"
_KEY_BYTES: Final = 32
_SERVERS: Final = 256  # whose boxes are kept: each start of a server makes another key


class CalloutKeysDamaged(FrontError):
    """The file with the auth callout's keys cannot be read."""

    code = "callout-keys-damaged"
    hint = "Make keys with 'tensorguard broker nats-keys', and give all nodes and fronts the same."


class NotSealedForUs(FrontError):
    """A request of the auth callout was not sealed for these keys."""

    code = "not-sealed-for-us"


@dataclass(frozen=True, slots=True)
class CalloutKeys:
    """One pair of seeds, 32 bytes each."""

    _issuer: bytes
    _xkey: bytes
    # Made once: an answer takes each of them several times.
    issuer: str = field(init=False)
    """The public nkey of the account in whose name answers are signed, `A…`."""
    xkey: str = field(init=False)
    """The public key that requests are sealed for, `X…`."""
    _signing: SigningKey = field(init=False, compare=False)
    _box: Callable[[str], Box] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        signing, sealing = SigningKey(self._issuer), PrivateKey(self._xkey)

        @lru_cache(maxsize=_SERVERS)
        def box(server_xkey: str) -> Box:
            return Box(sealing, PublicKey(decode_key(_CURVE, server_xkey)))

        made = {
            "issuer": _encode(nkeys.PREFIX_BYTE_ACCOUNT, bytes(signing.verify_key)),
            "xkey": _encode(_CURVE, bytes(sealing.public_key)),
            "_signing": signing,
            "_box": box,
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)  # the class is frozen

    def __repr__(self) -> str:
        return f"CalloutKeys({self.issuer})"

    @classmethod
    def generate(cls) -> "CalloutKeys":
        """Return new keys."""
        return cls(os.urandom(_KEY_BYTES), os.urandom(_KEY_BYTES))

    @classmethod
    def load(cls, path: Path) -> "CalloutKeys":
        """Read keys from the file that `store` wrote. Raises: CalloutKeysDamaged."""
        try:
            facts = json.loads(path.read_text())
            issuer, xkey = (bytes.fromhex(facts[name]) for name in ("issuer", "xkey"))
            if (len(issuer), len(xkey)) != (_KEY_BYTES, _KEY_BYTES):
                raise ValueError("a key of another length")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CalloutKeysDamaged(f"{path}: {type(error).__name__}") from None
        return cls(issuer, xkey)

    def store(self, path: Path) -> None:
        """Write the keys to a new file that only its owner can read. Raises: FileExistsError."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"issuer": self._issuer.hex(), "xkey": self._xkey.hex()}, file)

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature, 64 bytes."""
        return self._signing.sign(message).signature

    def open(self, sealed: bytes, server_xkey: str) -> bytes:
        """Return what a server has sealed for us. Raises: NotSealedForUs."""
        if not sealed.startswith(_SEALED):
            raise NotSealedForUs("the server does not seal its requests")
        try:
            return self._box(server_xkey).decrypt(sealed[len(_SEALED) :])
        except (CryptoError, ValueError) as error:
            raise NotSealedForUs(f"a request is not sealed for us: {error}") from None

    def seal(self, message: bytes, server_xkey: str) -> bytes:
        """Return the message as only that server can read it. Raises: NotSealedForUs."""
        return _SEALED + bytes(self._box(server_xkey).encrypt(message))


def _encode(prefix: int, raw: bytes) -> str:
    body = bytes([prefix]) + raw
    return base64.b32encode(body + nkeys.crc16_checksum(bytearray(body))).decode().rstrip("=")


def decode_key(prefix: int, text: str) -> bytes:
    """Return the 32 bytes of a public key of NATS with this prefix. Raises: NotSealedForUs."""
    try:
        body = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        raise NotSealedForUs("not a key of NATS") from None
    if len(body) != _KEY_BYTES + 3 or _encode(prefix, body[1:-2]) != text:
        raise NotSealedForUs("not a public key of NATS of that kind")
    return body[1:-2]
