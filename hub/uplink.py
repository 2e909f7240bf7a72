"""Where uplinks come from and downlinks go: what ingest asks of a broker engine."""

import asyncio
import ssl
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from hub.downlink import Downlink
from hub.errors import HubError


class Uplink(msgspec.Struct, frozen=True, gc=False):
    """One message as it came; `receipt` is the source's own, by which it is acked.

    `received_at` is the hub's clock, or the broker's where a message that comes again keeps it.
    """

    topic: str
    payload: bytes
    received_at: datetime
    receipt: tuple[int, int, int] = (0, 0, 0)


class LeaseLost(HubError):
    """Some of a batch's agents are another hub's by now; `kept` are the uplinks of the others."""

    code = "lease-lost"
    hint = "nothing is lost: the other hub receives them"

    def __init__(self, kept: Sequence[Uplink]) -> None:
        super().__init__("other hubs have taken over agents of this batch")
        self.kept = kept


class UplinkSource(Protocol):
    """One implementation for each broker engine; it connects as long as it is entered."""

    connected: asyncio.Event
    """Set while uplinks can come."""

    async def __aenter__(self) -> Self:
        """Begin to connect."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send what is to be sent, and hand over what is held."""

    @property
    def leads(self) -> bool:
        """Whether this hub does what one hub is enough for.

        For a moment there may be two or none: it saves work, and what must not be done twice is
        made sure of in the database.
        """

    @property
    def share(self) -> float:
        """The part of all agents that this hub serves, from 0 to 1."""

    def use(self, tls: ssl.SSLContext) -> None:
        """Connect with this from the next time on."""

    async def receive(self, most: int, wait_s: float) -> list[Uplink]:
        """Return up to `most` uplinks: at once when as many are there, else after `wait_s`."""

    def finish(self) -> None:
        """Take nothing more in; what `receive` has not returned yet may be left to others."""

    async def fence(self, session: AsyncSession, uplinks: Sequence[Uplink]) -> None:
        """Make sure, until the session's transaction ends, that no other hub has these agents.

        Raises: LeaseLost.
        """

    def ack(self, uplinks: Sequence[Uplink]) -> None:
        """Tell the broker that these are committed, in the order in which they came."""

    def publish(self, downlinks: Sequence[Downlink]) -> int:
        """Hand downlinks to the broker; return how many found no room and were dropped."""
