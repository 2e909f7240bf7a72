"""Deterministic CBOR in the small data model of the package format."""

from collections.abc import Mapping
from typing import Any, Never

import cbor2

from tensorguard.tgsp.errors import NotCanonical

MAX_DEPTH = 16
MAX_UINT = 2**64 - 1

# All tags that cbor2 6 would turn into something else (dates, regular expressions, shared and
# cyclic values, …). Unknown ones reach the tag hook.
_BUILT_IN_TAGS = (
    *range(6), 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799,
)  # fmt: skip


def _refuse_tag(*_: object) -> Never:
    raise NotCanonical("the CBOR has a tag, and the format has none")


_TAG_DECODERS = dict.fromkeys(_BUILT_IN_TAGS, _refuse_tag)


def encode(value: object) -> bytes:
    """Encode a value of the data model as deterministic CBOR (RFC 8949 section 4.2.1).

    With text keys only, the length-first order of RFC 7049 that cbor2 calls canonical is the
    same as the bytewise order of RFC 8949.

    Raises:
        NotCanonical: the value is outside the data model.
    """
    if reason := find_foreign(value):
        raise NotCanonical(reason)
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes) -> Any:
    """Decode exactly one deterministic CBOR item of the data model.

    Raises:
        NotCanonical: damaged, duplicate keys, indefinite lengths, tags, trailing bytes, or any
            form other than the one that `encode` gives.
    """
    try:
        value = cbor2.loads(
            data,
            tag_hook=_refuse_tag,
            semantic_decoders=_TAG_DECODERS,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        )
        again = cbor2.dumps(value, canonical=True)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError) as error:
        raise NotCanonical(f"the CBOR does not decode: {error}") from error
    if again != data:
        raise NotCanonical("the CBOR is not in its one deterministic form")
    return value


def find_foreign(value: object, *, where: str = "$", depth: int = 0) -> str | None:
    """Say what in a value is outside the data model: text, bytes, bool, 64-bit integers, lists
    and maps with text keys; None when all is inside."""
    if depth > MAX_DEPTH:
        return f"{where} is nested deeper than {MAX_DEPTH}"
    if type(value) in (str, bytes, bool):
        return None
    if type(value) is int:
        return None if -MAX_UINT - 1 <= value <= MAX_UINT else f"{where} is beyond 64 bits"
    if isinstance(value, list | tuple):
        items = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, Mapping):
        if any(type(key) is not str for key in value):
            return f"{where} has a key that is not text"
        items = [(f"{where}.{key}", item) for key, item in value.items()]
    else:
        return f"{where} is a {type(value).__name__}"
    for name, item in items:
        if reason := find_foreign(item, where=name, depth=depth + 1):
            return reason
    return None
