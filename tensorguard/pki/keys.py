"""Ed25519 keys that sign messages, and X25519 keys that grants are sealed to."""

import hashlib
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tensorguard.pki.errors import BadKey

RAW_KEY_BYTES = 32


def kid_of(public_raw: bytes) -> str:
    """The key id of a raw public key: lower-case hex SHA-256 of its 32 bytes."""
    return hashlib.sha256(public_raw).hexdigest()


class Ed25519Signer:
    """Signs with one Ed25519 key and knows its key id."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.public_raw = private_key.public_key().public_bytes_raw()
        self.kid = kid_of(self.public_raw)

    @classmethod
    def generate(cls) -> Self:
        """A signer with a new random key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """A signer with the key of a 32-byte seed (RFC 8032 section 5.1.5). Raises: BadKey."""
        if len(seed) != RAW_KEY_BYTES:
            raise BadKey("an Ed25519 seed has 32 bytes")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def private_key(self) -> Ed25519PrivateKey:
        """The key itself, for writing it to an encrypted file."""
        return self._private_key

    def public_key(self) -> Ed25519PublicKey:
        """The key that verifies what this one signs."""
        return self._private_key.public_key()

    def seed(self) -> bytes:
        """The 32 secret bytes, for sealing; never log them."""
        return self._private_key.private_bytes_raw()

    def sign(self, message: bytes, /) -> bytes:
        """The 64-byte signature of `message`."""
        return self._private_key.sign(message)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kid={self.kid!r})"


class Ed25519Verifier:
    """Checks signatures of one Ed25519 public key, given as its raw 32 bytes. Raises: BadKey."""

    __slots__ = ("_public_key", "kid", "public_raw")

    def __init__(self, public_raw: bytes) -> None:
        if len(public_raw) != RAW_KEY_BYTES:
            raise BadKey(f"an Ed25519 public key has 32 bytes, not {len(public_raw)}")
        self._public_key = Ed25519PublicKey.from_public_bytes(public_raw)
        self.public_raw = public_raw
        self.kid = kid_of(public_raw)

    def verify(self, signature: bytes, message: bytes, /) -> bool:
        """Tell whether `signature` is this key's over `message`."""
        try:
            self._public_key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kid={self.kid!r})"


def parse_x25519_private(raw: bytes) -> X25519PrivateKey:
    """An X25519 private key from its raw 32 bytes. Raises: BadKey."""
    if len(raw) != RAW_KEY_BYTES:
        raise BadKey(f"an X25519 private key has 32 bytes, not {len(raw)}")
    return X25519PrivateKey.from_private_bytes(raw)


def parse_x25519_public(raw: bytes) -> X25519PublicKey:
    """An X25519 public key from its raw 32 bytes, that a grant can be sealed to.

    Low-order points are refused (RFC 7748 section 6.1): with them the shared secret is all zero,
    so that anyone could open the grant. Raises: BadKey.
    """
    if len(raw) != RAW_KEY_BYTES:
        raise BadKey(f"an X25519 public key has 32 bytes, not {len(raw)}")
    public_key = X25519PublicKey.from_public_bytes(raw)
    try:
        X25519PrivateKey.generate().exchange(public_key)
    except ValueError:
        raise BadKey("this X25519 public key is a low-order point") from None
    return public_key
