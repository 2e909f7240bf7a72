"""Splunk's HTTP Event Collector, with or without indexer acknowledgement.

Sources: "Format events for HTTP Event Collector", "About HTTP Event Collector Indexer
Acknowledgment" and "Possible error codes" in Splunk's "Get data in".
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from tensorguard.siem.answer import Answer, Verdict, excerpt_of, failed, parse_retry_after
from tensorguard.siem.http_answer import judge_status
from tensorguard.siem.http_client import HttpAnswer, HttpClient
from tensorguard.siem.item import Batch, Item, SinkClient
from tensorguard.siem.ocsf import shortened

MAX_ITEMS: Final = 1_000
MAX_BYTES: Final = 800_000
"""Of a request: Splunk Cloud takes 1 MB, and what stands around an event counts."""
ACK_TIMEOUT: Final = timedelta(seconds=300)
_ACK_FIRST_S: Final = 0.05
_ACK_EVERY_S: Final = 1.0
_UNACKNOWLEDGED: Final = 16
"""So many batches are waited for at once."""
_ITEM_BYTES: Final = 700_000

_STOPPED: Final = {
    1: "the token is disabled",
    2: "the token is missing",
    3: "the Authorization header is not understood",
    4: "the token is unknown",
    10: "the token asks for indexer acknowledgement: switch it on here",
    11: "the channel is invalid",
    14: "the token has indexer acknowledgement switched off: switch it off here",
    16: "the token may not be sent in the URL",
}
_REFUSED: Final = {
    5: "no data",
    6: "invalid data format",
    7: "incorrect index",
    12: "the event field is missing",
    13: "the event field is blank",
    15: "indexed fields are invalid",
}
_RETRY: Final = {
    8: "internal error",
    9: "busy",
    18: "queues are full",
    19: "acknowledgements are not available",
    20: "queues are full, acknowledgements are not available",
    23: "shutting down",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HecTarget:
    """Where events go and how they are labelled; `channel` is a GUID of this sink's own."""

    url: str
    token: str = field(repr=False)
    channel: str
    host: str
    index: str | None = None
    source: str = "tensorguard"
    sourcetype: str = "tensorguard:ledger:ocsf"
    acknowledge: bool = False
    ack_timeout: timedelta = ACK_TIMEOUT


class HecClient(SinkClient):
    """Sends batches as concatenated JSON objects, one request at a time."""

    max_items = MAX_ITEMS
    max_bytes = MAX_BYTES

    def __init__(
        self,
        target: HecTarget,
        http: HttpClient,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_batches = _UNACKNOWLEDGED if target.acknowledge else 1
        self._target = target
        self._http = http
        self._pause = pause
        self._timer = timer
        base = target.url.rstrip("/")
        self._event_url = f"{base}/services/collector/event"
        self._ack_url = f"{base}/services/collector/ack?channel={target.channel}"

    async def send(self, batch: Batch, *, now: datetime) -> Answer:
        """Send, and with acknowledgement wait until the indexer has written it to disk."""
        [answer] = await self.send_several([batch], now=now)
        return answer

    async def send_several(self, batches: Sequence[Batch], *, now: datetime) -> list[Answer]:
        """Send one after the other up to the first that is not taken, then wait for all at once.

        An indexer acknowledges some seconds later: one batch at a time would be few entries.
        """
        answers: list[Answer] = []
        ack_ids: list[int] = []
        for batch in batches:
            answer, ack_id = await self._post(batch, now)
            answers.append(answer)
            if not answer.is_accepted:
                break
            ack_ids.append(ack_id)
        if not self._target.acknowledge or not ack_ids:
            return answers
        acknowledged, trouble = await self._wait_for(set(ack_ids), now)
        for place, ack_id in enumerate(ack_ids):
            if trouble is not None and ack_id not in acknowledged:
                return [*answers[:place], trouble]
        return answers

    async def _post(self, batch: Batch, now: datetime) -> tuple[Answer, int]:
        body = b"".join(self._event(item) for item in batch.items)
        try:
            answer = await self._http.post(self._event_url, self._headers(), body)
        except Exception as error:
            return failed(error), -1
        judged = self._judge(answer, now)
        if not judged.is_accepted or not self._target.acknowledge:
            return judged, -1
        ack_id = _json(answer).get("ackId")
        if isinstance(ack_id, int) and not isinstance(ack_id, bool):
            return judged, ack_id
        return Answer(
            verdict=Verdict.STOPPED,
            code="hec-no-acknowledgement",
            reason="the answer has no ackId: the token has no indexer acknowledgement",
            status=answer.status,
            excerpt=judged.excerpt,
        ), -1

    def redated(self, item: Item, now: datetime) -> bool:
        """Never."""
        return False

    async def close(self) -> None:
        """End the connection."""
        await self._http.close()

    def _event(self, item: Item) -> bytes:
        target = self._target
        labels: dict[str, Any] = {
            "time": f"{item.time.astimezone(UTC).timestamp():.3f}",
            "host": target.host,
            "source": target.source,
            "sourcetype": target.sourcetype,
        }
        if target.index is not None:
            labels["index"] = target.index
        labels["event"] = msgspec.Raw(shortened(item, _ITEM_BYTES))
        return msgspec.json.encode(labels)

    def _headers(self) -> dict[str, str]:
        headers = {
            "Authorization": f"Splunk {self._target.token}",
            "Content-Type": "application/json",
        }
        if self._target.acknowledge:
            headers["X-Splunk-Request-Channel"] = self._target.channel
        return headers

    async def _wait_for(self, ack_ids: set[int], now: datetime) -> tuple[set[int], Answer | None]:
        """Ask, often at first, until the indexer has acknowledged all; else say what is wrong.

        What is not acknowledged in time is sent again. Each is told of once.
        """
        acknowledged: set[int] = set()
        deadline = self._timer() + self._target.ack_timeout.total_seconds()
        pause_s = _ACK_FIRST_S
        while True:
            body = json.dumps({"acks": sorted(ack_ids - acknowledged)}).encode()
            try:
                answer = await self._http.post(self._ack_url, self._headers(), body)
            except Exception as error:
                return acknowledged, failed(error)
            if answer.status != 200:
                return acknowledged, self._judge(answer, now)
            acks = _json(answer).get("acks")
            if isinstance(acks, dict):
                acknowledged |= {one for one in ack_ids if acks.get(str(one)) is True}
            if acknowledged == ack_ids:
                return acknowledged, None
            if self._timer() + pause_s >= deadline:
                break
            await self._pause(pause_s)
            pause_s = min(pause_s * 1.5, _ACK_EVERY_S)
        return acknowledged, Answer(
            verdict=Verdict.RETRY,
            code="hec-not-acknowledged",
            reason=f"not acknowledged within {self._target.ack_timeout.total_seconds():.0f} s",
            status=answer.status,
            excerpt=excerpt_of(answer.body, [self._target.token]),
        )

    def _judge(self, answer: HttpAnswer, now: datetime) -> Answer:
        said = _json(answer)
        code = said.get("code")
        excerpt = excerpt_of(answer.body, [self._target.token])
        if answer.status == 200 and code == 0:
            return Answer(
                verdict=Verdict.ACCEPTED,
                code="accepted",
                reason="accepted",
                status=answer.status,
                excerpt=excerpt,
            )
        for verdict, meanings in (
            (Verdict.STOPPED, _STOPPED),
            (Verdict.REFUSED, _REFUSED),
            (Verdict.RETRY, _RETRY),
        ):
            if isinstance(code, int) and code in meanings:
                bad = said.get("invalid-event-number")
                return Answer(
                    verdict=verdict,
                    code=f"hec-{code}",
                    reason=f"Splunk: {meanings[code]} (code {code})",
                    status=answer.status,
                    excerpt=excerpt,
                    retry_after=parse_retry_after(answer.headers.get("retry-after"), now),
                    bad_item=bad if isinstance(bad, int) and bad >= 0 else None,
                )
        if answer.status < 300:  # whoever that was: what it was sent may be lost
            return Answer(
                verdict=Verdict.RETRY,
                code="hec-unexpected",
                reason="the answer is none of an HTTP Event Collector",
                status=answer.status,
                excerpt=excerpt,
            )
        return judge_status(answer, now, secrets=[self._target.token])


def _json(answer: HttpAnswer) -> dict[str, Any]:
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
