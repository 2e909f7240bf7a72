"""What one request may cost: the size of its body, and its time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.types import Message, Receive

from api.errors import BodyTooLarge, UnsupportedMediaType

KIB: Final = 1024
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True)
class Limits:
    """`replayable` false: the answer holds a secret and is never stored.

    `streamed`: the body is never held in memory, and the request has its effect once by what it
    holds, so that an Idempotency-Key is not looked at.
    """

    max_body_bytes: int = 64 * KIB
    timeout_s: float = 30.0
    replayable: bool = True
    streamed: bool = False


DEFAULT: Final = Limits()


def limits(
    *,
    max_body_bytes: int = DEFAULT.max_body_bytes,
    timeout_s: float = DEFAULT.timeout_s,
    replayable: bool = True,
    streamed: bool = False,
) -> Callable[[Endpoint], Endpoint]:
    """Give an endpoint other limits than most have; stands below `@router.post(…)`."""

    def attach(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__["limits"] = Limits(max_body_bytes, timeout_s, replayable, streamed)
        return endpoint

    return attach


def limits_of(endpoint: Callable[..., Any]) -> Limits:
    """Return the limits of an endpoint."""
    found = getattr(endpoint, "limits", DEFAULT)
    assert isinstance(found, Limits)
    return found


def limited(request: Request, max_body_bytes: int) -> Request:
    """Return the request with a body that ends in an error when it grows too large.

    Raises: BodyTooLarge if the request announces it.
    """
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > max_body_bytes:
        raise _too_large(max_body_bytes)
    return Request(request.scope, _counted(request.receive, max_body_bytes))


def _counted(receive: Receive, max_body_bytes: int) -> Receive:
    received = 0

    async def receive_counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_body_bytes:
            raise _too_large(max_body_bytes)
        return message

    return receive_counted


def _too_large(max_body_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body of this request may have {max_body_bytes:,} bytes")


def check_json(request: Request) -> None:
    """Refuse a body that is not declared as JSON.

    Raises: UnsupportedMediaType.
    """
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"this route does not read {media_type[:100] or 'that'!r}")
