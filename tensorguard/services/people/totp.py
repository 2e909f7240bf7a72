"""Time-based one-time codes (RFC 6238) as authenticator apps make them: SHA-1, 6 digits, 30 s."""

import base64
from datetime import datetime
from hmac import compare_digest
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

DIGITS: Final = 6
STEP_S: Final = 30
SECRET_BYTES: Final = 20  # RFC 4226 section 4, R6 recommends 160 bits
WINDOW: Final = 1
"""So many steps early or late a code may come: for clocks, and for people who type slowly."""
ISSUER: Final = "TensorGuard"


def step_at(moment: datetime) -> int:
    """Return the number of the time step (RFC 6238 section 4.2)."""
    return int(moment.timestamp()) // STEP_S


def compute_code(secret: bytes, step: int) -> str:
    """Return the code of one time step."""
    return _totp(secret).generate(step * STEP_S).decode()


def find_step(secret: bytes, code: str, *, after: int, now: datetime) -> int | None:
    """Return the step around `now` whose code this is; None if it is of none after `after`.

    Every step of the window is compared, whichever fits (RFC 6238 section 5.2: no code twice).
    """
    middle = step_at(now)
    found = None
    for step in range(middle - WINDOW, middle + WINDOW + 1):
        is_equal = compare_digest(compute_code(secret, step).encode(), code.encode())
        if is_equal and step > after:
            found = step
    return found


def secret_text(secret: bytes) -> str:
    """Return the secret as people type it into an app (RFC 4648 base32, no padding)."""
    return base64.b32encode(secret).decode().rstrip("=")


def provisioning_uri(secret: bytes, account: str) -> str:
    """Return the otpauth:// URI that authenticator apps read as a QR code."""
    return _totp(secret).get_provisioning_uri(account, ISSUER)


def _totp(secret: bytes) -> TOTP:
    return TOTP(secret, DIGITS, SHA1(), STEP_S)  # noqa: S303  # what apps do; HMAC-SHA-1 is sound
