"""What a hub sends to NATS: acks and requests first, then downlinks; bounded, in a task of its own.

Acks and requests belong to a connection and go with it. Downlinks wait for the next one.
"""

import asyncio
import json
from collections import deque
from collections.abc import Sequence

import structlog
from nats.aio.client import Client

from hub.downlink import Downlink
from hub.nats.errors import Unreachable, reason
from tensorguard.protocol.errors import BadTopic
from tensorguard.protocol.subjects import STREAM, to_subject

log = structlog.get_logger()

PULL_FOR_S = 30.0
PULL_HEARTBEAT_S = 5.0
_AT_ONCE = 200


class Outgoing:
    """Takes without waiting what a task then sends."""

    def __init__(self, downlink_limit: int) -> None:
        self._limit = downlink_limit
        self._downlinks: deque[Downlink] = deque()
        self._acks: dict[str, bytes] = {}
        self._requests: deque[tuple[str, bytes, str]] = deque()
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def ack(self, consumer: str, reply: bytes) -> None:
        """Ack all of a consumer's messages up to this one; a later ack takes an unsent one in."""
        self._acks[consumer] = reply
        self._wake()

    def pull(self, consumer: str, inbox: str, messages: int, most_bytes: int) -> None:
        """Ask a consumer for messages, each to come to `inbox`."""
        request = {
            "batch": messages,
            "max_bytes": most_bytes,
            "expires": int(PULL_FOR_S * 1e9),
            "idle_heartbeat": int(PULL_HEARTBEAT_S * 1e9),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}"
        self._requests.append((subject, json.dumps(request).encode(), inbox))
        self._wake()

    def publish(self, downlinks: Sequence[Downlink]) -> int:
        """Take downlinks; return how many found no room."""
        taken = downlinks[: max(0, self._limit - len(self._downlinks))]
        self._downlinks.extend(taken)
        if taken:
            self._wake()
        if dropped := len(downlinks) - len(taken):
            log.warning("downlinks_dropped", count=dropped)
        return dropped

    def forget(self, consumer: str) -> None:
        """Ack nothing of this consumer any more."""
        self._acks.pop(consumer, None)

    async def run(self, client: Client) -> None:
        """Send over this connection until it ends; what belonged to the one before is forgotten."""
        self._acks.clear()
        self._requests.clear()
        while not client.is_closed:
            if not await self._send(client):
                return
            if not (self._acks or self._requests or self._downlinks):
                self._idle.set()
                self._woken.clear()
                await self._woken.wait()

    async def until_idle(self, at_most_s: float) -> bool:
        """Wait until everything is sent; false when it took too long."""
        try:
            async with asyncio.timeout(at_most_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _send(self, client: Client) -> bool:
        """Send what there is, downlinks by the hundred; false when the connection ended."""
        try:
            acks, self._acks = self._acks, {}
            for reply in acks.values():
                await client.publish(reply.decode())
            while self._requests:
                subject, request, inbox = self._requests.popleft()
                await client.publish(subject, request, reply=inbox)
            for _ in range(min(_AT_ONCE, len(self._downlinks))):
                await self._send_down(client, self._downlinks[0])
                self._downlinks.popleft()
        except Unreachable as error:
            log.debug("nats_sending_ended", reason=reason(error))
            return False
        return True

    async def _send_down(self, client: Client, downlink: Downlink) -> None:
        try:
            await client.publish(to_subject(downlink.topic), downlink.payload)
        except BadTopic as error:
            log.error("downlink_not_sent", reason=error.message)

    def _wake(self) -> None:
        self._idle.clear()
        self._woken.set()
