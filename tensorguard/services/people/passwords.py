"""Passwords as argon2id hashes (RFC 9106)."""

import secrets
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# RFC 9106 section 4, second recommended option: 64 MiB, 3 passes, 4 lanes.
HASHER: Final = PasswordHasher()
GENERATED_BYTES: Final = 18


def hash_password(password: str, hasher: PasswordHasher = HASHER) -> str:
    """The hash to store, with its parameters and a random salt in it; takes about 50 ms of a core.

    Call it outside the event loop.
    """
    return hasher.hash(password)


def verify_password(stored: str, password: str, hasher: PasswordHasher = HASHER) -> bool:
    """Tell whether `password` is the one that was hashed; takes as long as hashing."""
    try:
        return hasher.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


def needs_rehash(stored: str, hasher: PasswordHasher = HASHER) -> bool:
    """Tell whether a hash was made with other parameters than those of `hasher`."""
    return hasher.check_needs_rehash(stored)


def generate_password() -> str:
    """A random password of 24 characters that can be typed and pasted."""
    return secrets.token_urlsafe(GENERATED_BYTES)
