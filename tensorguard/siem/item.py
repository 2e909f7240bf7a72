"""What is sent: entries in their shape, many at a time, and what each kind of sink promises."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tensorguard.siem.answer import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One ledger entry as OCSF JSON, with what stands beside it at most destinations."""

    epoch: int
    leaf_index: int
    time: datetime
    type: str
    severity_id: int
    message: str
    document: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Items in the ledger's order, of one epoch, and a signed checkpoint of that epoch."""

    items: Sequence[Item]
    checkpoint: str

    def split(self, at: int) -> tuple["Batch", "Batch"]:
        """Return what stands before an item, and the rest."""
        return Batch(self.items[:at], self.checkpoint), Batch(self.items[at:], self.checkpoint)


class SinkClient(Protocol):
    """The way to one destination. It holds what it is given, and keeps nothing."""

    max_items: int
    max_bytes: int
    """Of a batch's documents together."""
    max_batches: int = 1

    async def send(self, batch: Batch, *, now: datetime) -> Answer:
        """Send a batch; only what the destination has is answered as accepted."""
        ...

    async def send_several(self, batches: Sequence[Batch], *, now: datetime) -> Sequence[Answer]:
        """Send batches, `max_batches` at most, in their order.

        The answers end with the first that was not accepted; what comes after is sent again.
        """
        return [await self.send(batches[0], now=now)]

    def redated(self, item: Item, now: datetime) -> bool:
        """Tell whether the destination would get this item under another time than its own."""
        ...

    async def close(self) -> None:
        """End connections; the client can be used again."""
        ...
