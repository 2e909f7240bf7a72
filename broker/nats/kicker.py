"""Ends sessions on whatever node they are, and counts only what a server has confirmed."""

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec
from nats.aio.client import Client

from broker.nats.errors import NodeUnreachable
from broker.nats.link import ask
from broker.nats.metrics import NatsMetrics
from broker.nats.sessions import Place

# Answers come in about a millisecond; more at once only make the first ones later.
_AT_ONCE: Final = 256


class Kick(StrEnum):
    """What became of a session that was to end."""

    ENDED = "ended"
    GONE = "gone-already"
    UNANSWERED = "unanswered"


class _Answer(msgspec.Struct):
    error: dict[str, object] | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class Kicker:
    """Asks servers to disconnect clients, many at a time."""

    def __init__(self, metrics: NatsMetrics) -> None:
        self._metrics = metrics
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def kick(self, client: Client, places: Sequence[Place]) -> list[Kick]:
        """End these sessions, and say what became of each."""
        return await asyncio.gather(*(self._kick(client, place) for place in places))

    async def _kick(self, client: Client, place: Place) -> Kick:
        kick = await self._ask(client, place)
        self._metrics.kicks.labels(kick).inc()
        return kick

    async def _ask(self, client: Client, place: Place) -> Kick:
        body = msgspec.json.encode({"cid": place.cid})
        try:
            async with self._room:
                answer = _decode(await ask(client, f"$SYS.REQ.SERVER.{place.server_id}.KICK", body))
        except (NodeUnreachable, msgspec.DecodeError):
            return Kick.UNANSWERED
        return Kick.ENDED if answer.error is None else Kick.GONE
