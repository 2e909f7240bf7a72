"""Draws: the random order of agents that a preview shows and a deployment then starts with.

A person takes it over from the preview; the platform's seal on it says that nobody has chosen it.
"""

import hmac
import secrets
from typing import Final

from tensorguard.rollouts.stages import SALT_BYTES
from tensorguard.services.errors import Invalid

_LABEL: Final = b"tensorguard deployment draw\0"


def new_draw(key: bytes) -> str:
    """Draw lots, and return them sealed with `key`."""
    salt = secrets.token_bytes(SALT_BYTES)
    return (salt + _seal(key, salt)).hex()


def open_draw(key: bytes, draw: str) -> bytes:
    """Return the salt of a draw of this platform. Raises: Invalid."""
    try:
        given = bytes.fromhex(draw)
    except ValueError:
        given = b""
    salt, seal = given[:SALT_BYTES], given[SALT_BYTES:]
    if not hmac.compare_digest(seal, _seal(key, salt)):
        raise Invalid("the draw is not one of this platform", hint="Take it from a preview.")
    return salt


def _seal(key: bytes, salt: bytes) -> bytes:
    return hmac.digest(key, _LABEL + salt, "sha256")
