"""nats-py's client, with a short way for the messages that come by the thousand."""

import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import structlog
from nats.aio.client import Client

from hub.nats.errors import NatsError, Unreachable, reason

log = structlog.get_logger()

# Subject, reply, payload, raw headers.
Taker = Callable[[bytes, bytes, bytes, bytes | None], None]
_CONNECT_TIMEOUT_S = 5
_PING_EVERY_S = 10
_PINGS_UNANSWERED = 2


class IntakeClient(Client):
    """Hands what comes for some subscriptions straight to a function.

    The usual way, with a parsed header, a queue and a wake-up for each message, costs more than
    storing the message does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.takers: dict[int, Taker] = {}
        self.serves = False

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        taker = self.takers.get(sid)
        if taker is not None:
            taker(subject, reply, data, headers)
        else:
            await super()._process_msg(sid, subject, reply, data, headers or b"")

    async def hand_to(self, subject: str, taker: Taker) -> int:
        """Subscribe; return the number by which `forget` ends it."""
        subscription = await self.subscribe(subject)
        number = int(subscription._id)  # no property has it
        self.takers[number] = taker
        return number

    async def forget(self, number: int) -> None:
        """End a subscription of `hand_to`."""
        if self.takers.pop(number, None) is not None:
            await self._subs[number].unsubscribe()


async def connect(
    urls: Sequence[str],
    tls: ssl.SSLContext,
    *,
    name: str,
    ended: Callable[[], Awaitable[None]],
) -> IntakeClient:
    """Connect to one of the servers, in random order; nothing is connected again by itself.

    `ended` is called when the connection is lost, or its server is about to stop.
    Raises: NatsError.
    """
    said: list[str] = []
    for url in random.sample(urls, len(urls)):
        client = IntakeClient()

        async def end(client: IntakeClient = client) -> None:
            if client.serves:
                await ended()

        try:
            await client.connect(
                [url],
                name=name,
                tls=tls,
                tls_handshake_first=True,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=_CONNECT_TIMEOUT_S,
                ping_interval=_PING_EVERY_S,
                max_outstanding_pings=_PINGS_UNANSWERED,
                flush_timeout=_CONNECT_TIMEOUT_S,
                error_cb=_ignore,
                closed_cb=end,
                lame_duck_mode_cb=end,
            )
            # Who is hung up on before an answer looks connected until now.
            await client.flush(_CONNECT_TIMEOUT_S)
        except Unreachable as error:
            said.append(f"{place_of(url)}: {reason(error)}")
            await client.close()
            continue
        client.serves = True
        return client
    raise NatsError(
        "; ".join(said) or "no server is known", hint="Check TG_NATS_URL and the servers' logs."
    )


def place_of(url: str) -> str:
    """Return host and port alone: a URL may hold a password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 4222}"


async def _ignore(error: Exception) -> None:
    log.debug("nats_client_error", reason=reason(error))
