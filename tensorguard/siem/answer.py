"""What became of a batch: the one form into which every kind of sink translates its answers."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

import httpcore

from tensorguard.siem.errors import AddressRefused

EXCERPT_BYTES: Final = 256
LONGEST_RETRY_AFTER: Final = timedelta(hours=1)
"""No far end may silence a sink for longer with one answer."""


class Verdict(StrEnum):
    """What the exporter has to do next."""

    ACCEPTED = "accepted"
    RETRY = "retry"
    """The same again, later."""
    REFUSED = "refused"
    """Something in the batch will never be taken: find it."""
    TOO_LARGE = "too-large"
    """The same in smaller parts."""
    STOPPED = "stopped"
    """Nothing will be taken until a person has changed something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A verdict with its reason; `excerpt` is the beginning of what the far end has said.

    `bad_item` is the item that the far end holds against the batch, where it names one.
    """

    verdict: Verdict
    code: str
    reason: str
    status: int | None = None
    excerpt: str = ""
    retry_after: timedelta | None = None
    bad_item: int | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the far end has the batch."""
        return self.verdict is Verdict.ACCEPTED


def excerpt_of(body: bytes, secrets: Sequence[str] = ()) -> str:
    """Return the first 256 bytes as one line of text; a secret that is echoed is blotted out."""
    text = body.decode("utf-8", "replace")  # all of it: no part of a secret is left at an end
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[secret]")
    beginning = text[:EXCERPT_BYTES]
    line = "".join(character if character.isprintable() else " " for character in beginning)
    return line.encode()[:EXCERPT_BYTES].decode("utf-8", "ignore").strip()


def failed(error: Exception) -> Answer:
    """Translate an error of the network. What is no such error is raised again."""
    match error:
        case AddressRefused():
            code, reason = error.code, error.message
        case TimeoutError() | httpcore.TimeoutException():
            code, reason = "timeout", "the destination did not answer in time"
        case ssl.SSLError():
            code, reason = "tls-failed", f"TLS: {_tls_reason(error)}"
        case httpcore.NetworkError() | httpcore.ProtocolError() | OSError():
            cause = _tls_cause(error)
            if cause is not None:
                code, reason = "tls-failed", f"TLS: {_tls_reason(cause)}"
            else:
                code = "connection-failed"
                reason = f"no connection: {str(error)[:200] or type(error).__name__}"
        case _:
            raise error
    return Answer(verdict=Verdict.RETRY, code=code, reason=reason)


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Return how long a Retry-After header (RFC 9110 §10.2.3) asks to wait, an hour at most."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdecimal():
        seconds = min(int(value[:12]), int(LONGEST_RETRY_AFTER.total_seconds()))
        return timedelta(seconds=seconds)
    try:
        until = parsedate_to_datetime(value)
        return max(timedelta(0), min(until - now, LONGEST_RETRY_AFTER))
    except (TypeError, ValueError):
        return None


def _tls_cause(error: BaseException) -> ssl.SSLError | None:
    """The TLS error that another library has wrapped."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return None
        if isinstance(seen, ssl.SSLError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not believed: {error.verify_message}"
    return str(error.reason or error)[:200].replace("_", " ").lower()
