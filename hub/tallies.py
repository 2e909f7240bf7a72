"""Sums of what agents do wrong: an entry at the first, then one a minute with the count.

Nobody may flood an immutable log: what one agent does within a minute is one entry, a minute holds
at most so many entries, and what exceeds that is summed up without names.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Generic, TypeVar

TOLD_EVERY = timedelta(minutes=1)
MAX_KEYS = 1_000

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Tally:
    """Events of one kind: how many that are not told yet, and since when."""

    count: int
    since: datetime


class Tallies(Generic[K]):
    """Counts by key between two entries of the same key.

    Nothing changes before `settle`: a transaction that fails must not count, nor forget.
    """

    def __init__(self, overflow: Callable[[K], K]) -> None:
        """`overflow` gives the key under which a key is counted for which there is no room."""
        self._overflow = overflow
        self._open: dict[K, Tally] = {}

    def count(
        self, counts: Iterable[tuple[K, int]], now: datetime
    ) -> tuple[list[tuple[K, Tally]], dict[K, Tally]]:
        """Return what is to be told at once, the first of its key this minute.

        With it come the tallies to `settle` after the commit.
        """
        first: dict[K, Tally] = {}
        changed: dict[K, Tally] = {}
        for wanted, count in counts:
            key = self._key(wanted, changed)
            if key in first:
                first[key] = replace(first[key], count=first[key].count + count)
            elif (known := changed.get(key) or self._open.get(key)) is None:
                first[key] = Tally(count, now)
                changed[key] = Tally(0, now)
            else:
                changed[key] = replace(known, count=known.count + count)
        return list(first.items()), changed

    def _key(self, key: K, changed: Mapping[K, Tally]) -> K:
        if key in self._open or key in changed or len(self._open) + len(changed) < MAX_KEYS:
            return key
        return self._overflow(key)

    def settle(self, changed: Mapping[K, Tally]) -> None:
        """Take over the tallies of a batch that is committed."""
        self._open.update(changed)

    def due(self, now: datetime) -> list[tuple[K, Tally]]:
        """Return the tallies whose minute is over, to `forget` once they are told."""
        return [
            (key, tally) for key, tally in self._open.items() if now - tally.since >= TOLD_EVERY
        ]

    def forget(self, told: Sequence[tuple[K, Tally]]) -> None:
        """Start the next minute of what is told, with what was counted in the meantime."""
        for key, tally in told:
            left = self._open[key].count - tally.count
            if left or tally.count:
                self._open[key] = Tally(left, tally.since + TOLD_EVERY)
            else:
                del self._open[key]
