"""Reads from what a NATS server says why it does not run; pure."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from broker.nats.errors import (
    BadNodeSettings,
    NodeAddressTaken,
    NodeDiskFull,
    NodeError,
    NodeStoreDamaged,
)

# `[123] 2026/01/31 10:00:00.000000 [ERR] …`
_RECORD: Final = re.compile(r"^\[\d+\] \S+ \S+ \[(?P<level>[A-Z]{3})\] (?P<text>.*)$")
# What is said of a connection holds what its client chose, such as its id.
_OF_A_CLIENT: Final = re.compile(r"^\S+ - [a-z]+:\d+ - ")
_REASONS: Final[Sequence[tuple[str, type[NodeError]]]] = (
    (r"address already in use|cannot assign requested address", NodeAddressTaken),
    (r"insufficient (storage|memory) resources", BadNodeSettings),
    (r"no space left on device|disk quota exceeded", NodeDiskFull),
    (
        r"can't start jetstream|error recovering|error recreating|checksums? do(es)? not match"
        r"|corrupt|could not (re)?create jetstream|error unmarshalling",
        NodeStoreDamaged,
    ),
)
_MOST: Final = 5


def errors_in(lines: Iterable[str]) -> list[str]:
    """The texts of the records that are errors, without time and level."""
    return _texts_in(lines, {"ERR", "FTL"})


def damage_in(lines: Iterable[str]) -> list[str]:
    """The texts of the records, warnings too, which say that something was not recovered."""
    texts = _texts_in(lines, {"WRN", "ERR", "FTL"})
    own = (text for text in texts if not _OF_A_CLIENT.match(text))
    return [text for text in own if _kind_of(text) is NodeStoreDamaged]


def _texts_in(lines: Iterable[str], levels: Collection[str]) -> list[str]:
    records = (_RECORD.match(line.rstrip()) for line in lines)
    return [one["text"].strip() for one in records if one is not None and one["level"] in levels]


def explain(errors: Sequence[str], status: int) -> NodeError:
    """The error that a server's last words amount to."""
    for text in reversed(errors):
        if (kind := _kind_of(text)) is not None:
            return kind(text[:500])
    said = "; ".join(errors[-_MOST:])[:1000] or "it said nothing"
    how = f"signal {-status}" if status < 0 else f"exit code {status}"
    return NodeError(f"nats-server has ended by itself ({how}): {said}")


def _kind_of(text: str) -> type[NodeError] | None:
    for pattern, kind in _REASONS:
        if re.search(pattern, text, re.IGNORECASE):
            return kind
    return None
