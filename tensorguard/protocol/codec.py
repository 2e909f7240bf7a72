"""JSON bytes to messages and back, with the size limits of the protocol."""

import re
from typing import Final, TypeVar

import msgspec

from tensorguard.protocol.errors import BadMessage, MessageTooLarge
from tensorguard.protocol.messages import (
    CsrRequest,
    Event,
    EventHeader,
    FrontConnected,
    FrontDenied,
    FrontDisconnected,
    FrontEnroll,
    Heartbeat,
    KeyRequest,
    Message,
    Progress,
    Reply,
    Will,
)
from tensorguard.protocol.topics import FrontKind, UpKind

MAX_PAYLOAD_BYTES: Final = 64 * 1024
MAX_HEARTBEAT_BYTES: Final = 8 * 1024
# A device's certificate and request in base64: only a front says it, over the hub's own connection.
MAX_FRONT_ENROLL_BYTES: Final = 128 * 1024

_UP: Final[dict[UpKind | FrontKind, type[Message]]] = {
    UpKind.HEARTBEAT: Heartbeat,
    UpKind.EVENT: Event,
    UpKind.PROGRESS: Progress,
    UpKind.KEY_REQUEST: KeyRequest,
    UpKind.CSR: CsrRequest,
    UpKind.REPLY: Reply,
    UpKind.WILL: Will,
    FrontKind.CONNECTED: FrontConnected,
    FrontKind.DISCONNECTED: FrontDisconnected,
    FrontKind.DENIED: FrontDenied,
    FrontKind.ENROLL: FrontEnroll,
}
_DECODERS = {kind: msgspec.json.Decoder(type_) for kind, type_ in _UP.items()}
_TIMES: Final = {
    kind: field
    for kind, type_ in _UP.items()
    for field in ("at", "sent_at")
    if field in type_.__struct_fields__
}
_MAX_BYTES: Final[dict[UpKind | FrontKind, int]] = {
    UpKind.HEARTBEAT: MAX_HEARTBEAT_BYTES,
    FrontKind.ENROLL: MAX_FRONT_ENROLL_BYTES,
}
_EVENT_HEADER = msgspec.json.Decoder(EventHeader)
# A string without an end goes to the end: whatever the bytes are, each is looked at once.
_STRING_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', re.DOTALL)
T = TypeVar("T", bound=Message)
_ENCODER = msgspec.json.Encoder()


def max_bytes(kind: UpKind | FrontKind) -> int:
    """Return the largest payload of `kind` in bytes."""
    return _MAX_BYTES.get(kind, MAX_PAYLOAD_BYTES)


def encode(message: msgspec.Struct) -> bytes:
    """Return the message as compact UTF-8 JSON."""
    return _ENCODER.encode(message)


def decode_up(kind: UpKind | FrontKind, payload: bytes) -> Message:
    """Return the message of `kind` in `payload`.

    Raises: MessageTooLarge, BadMessage (says which field and why).
    """
    if len(payload) > max_bytes(kind):
        raise MessageTooLarge(f"{kind} of {len(payload)} bytes; the limit is {max_bytes(kind)}")
    try:
        message = _DECODERS[kind].decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadMessage(f"{kind}: {str(error)[:300]}") from None
    field = _TIMES.get(kind)
    # Within a day of its ends a time has no UTC form in Python and cannot be read back.
    if field is not None and not 1 < (year := getattr(message, field).year) < 9999:
        raise BadMessage(f"{kind}: the year {year} of `{field}` is no time of this protocol")
    return message


def find_event_header(payload: bytes) -> EventHeader | None:
    """Return log_id, number and oldest of an event whose body may be invalid, or None."""
    try:
        try:
            return _EVENT_HEADER.decode(payload)
        except RecursionError:  # what is nested deeper than Python's stack is no part of a header
            return _EVENT_HEADER.decode(_without_nested(payload))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _without_nested(payload: bytes) -> bytes:
    """Return JSON with null for each array and object in the outermost one."""
    kept: list[bytes] = []
    depth = start = 0
    for token in _STRING_OR_BRACKET.finditer(payload):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth == 2:
                kept += payload[start : token.start()], b"null"
        elif token[0] in (b"]", b"}"):
            if depth == 2:
                start = token.end()
            depth -= 1
    return b"".join(kept) + payload[start:]


def decode(type_: type[T], payload: bytes | str) -> T:
    """Return `payload` as a message of `type_`.

    Raises: BadMessage.
    """
    try:
        return msgspec.json.decode(payload, type=type_)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadMessage(f"{type_.__name__}: {str(error)[:300]}") from None
