"""The answer that does not end: a subscription as server-sent events (WHATWG HTML 9.2)."""

import asyncio
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.connection import ABORT
from api.events.feed import Feed
from api.events.subscription import Interest, Subscription, keep_alive_at
from api.problems import problem_response
from tensorguard.services.people.access import Caller

log = structlog.get_logger()

KEEP_ALIVE_S: Final = 15.0
# A listener that takes nothing for so long is as good as gone.
TAKEN_WITHIN_S: Final = 20.0
_LAST_WORD_S: Final = 1.0
_RETRY_MS: Final = 2000


class EventStream(Response):
    """Joins the feed when it is sent, and leaves it however it ends."""

    media_type = "text/event-stream"

    def __init__(
        self, feed: Feed, caller: Caller, interest: Interest, *, resume_at: int | None
    ) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._feed = feed
        self._caller = caller
        self._interest = interest
        self._resume_at = resume_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            subscription = await self._feed.join(
                self._caller, self._interest, resume_at=self._resume_at
            )
        except Exception as error:
            await problem_response(error)(scope, receive, send)
            return
        writing = asyncio.create_task(self._write(subscription, send), name="event-stream")
        listening = asyncio.create_task(_until_gone(receive), name="event-stream-end")
        ending = asyncio.create_task(subscription.ended.wait(), name="event-stream-stop")
        tasks = (writing, listening, ending)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            is_gone = listening.done()
        finally:
            self._feed.leave(subscription)
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        because = "gone" if is_gone else subscription.ended_because
        if isinstance(ends[0], TimeoutError):
            because = "slow"
        elif isinstance(ends[0], Exception):
            log.error("event_stream_failed", exc_info=ends[0])
        log.info("event_stream_ended", because=because)
        if not is_gone:
            await _finish(because, scope, receive, send)

    async def _write(self, subscription: Subscription, send: Send) -> None:
        # Whoever resumes is where they were until they have what they missed.
        position = subscription.position if self._resume_at is None else self._resume_at
        head = b"retry: %d\n" % _RETRY_MS + keep_alive_at(max(position, 0))
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send(_body(head))
        while (chunk := await subscription.next(KEEP_ALIVE_S)) is not None:
            async with asyncio.timeout(TAKEN_WITHIN_S):
                await send(_body(chunk))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _finish(because: str | None, scope: Scope, receive: Receive, send: Send) -> None:
    """End the answer; cut off whoever does not even take that."""
    try:
        if because == "slow":
            raise TimeoutError
        async with asyncio.timeout(_LAST_WORD_S):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    except TimeoutError:
        if ABORT in scope.get("extensions", {}):
            scope["extensions"][ABORT]["now"]()
            await _until_gone(receive)


def _body(chunk: bytes) -> Message:
    return {"type": "http.response.body", "body": chunk, "more_body": True}
