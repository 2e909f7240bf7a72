"""Splunk's HTTP Event Collector, with or without indexer acknowledgement.

Sources: "Format events for HTTP Event Collector", "About HTTP Event Collector Indexer
Acknowledgment" and "Possible error codes" in Splunk's "Get data in".
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from tensorguard.siem.answer import Answer, Verdict, excerpt_of, failed, parse_retry_after
from tensorguard.siem.http_answer import judge_status
from tensorguard.siem.http_client import HttpAnswer, HttpClient
from tensorguard.siem.item import Batch, Item
from tensorguard.siem.ocsf import shortened

MAX_ITEMS: Final = 1_000
MAX_BYTES: Final = 800_000
"""Of a request: Splunk Cloud takes 1 MB, and what stands around an event counts."""
ACK_TIMEOUT: Final = timedelta(seconds=300)
_ACK_EVERY_S: Final = 1.0
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


class HecClient:
    """Sends batches as concatenated JSON objects, one request at a time."""

    max_items = MAX_ITEMS
    max_bytes = MAX_BYTES

    def __init__(
        self,
        target: HecTarget,
        http: HttpClient,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._target = target
        self._http = http
        self._pause = pause
        base = target.url.rstrip("/")
        self._event_url = f"{base}/services/collector/event"
        self._ack_url = f"{base}/services/collector/ack?channel={target.channel}"

    async def send(self, batch: Batch, *, now: datetime) -> Answer:
        """Send, and with acknowledgement wait until the indexer has written it to disk."""
        body = b"".join(self._event(item) for item in batch.items)
        try:
            answer = await self._http.post(self._event_url, self._headers(), body)
        except Exception as error:
            return failed(error)
        judged = self._judge(answer, now)
        if not judged.is_accepted or not self._target.acknowledge:
            return judged
        ack_id = _json(answer).get("ackId")
        if not isinstance(ack_id, int) or isinstance(ack_id, bool):
            return Answer(
                verdict=Verdict.STOPPED,
                code="hec-no-acknowledgement",
                reason="the answer has no ackId: the token has no indexer acknowledgement",
                status=answer.status,
                excerpt=judged.excerpt,
            )
        return await self._acknowledged(ack_id, judged, now)

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

    async def _acknowledged(self, ack_id: int, accepted: Answer, now: datetime) -> Answer:
        """Ask until the indexer says so. What is not acknowledged in time is sent again."""
        body = json.dumps({"acks": [ack_id]}).encode()
        asked = max(1, int(self._target.ack_timeout.total_seconds() / _ACK_EVERY_S))
        for _ in range(asked):
            try:
                answer = await self._http.post(self._ack_url, self._headers(), body)
            except Exception as error:
                return failed(error)
            if answer.status != 200:
                return self._judge(answer, now)
            acks = _json(answer).get("acks")
            if isinstance(acks, dict) and acks.get(str(ack_id)) is True:
                return accepted
            await self._pause(_ACK_EVERY_S)
        return Answer(
            verdict=Verdict.RETRY,
            code="hec-not-acknowledged",
            reason=f"not acknowledged within {self._target.ack_timeout.total_seconds():.0f} s",
            status=accepted.status,
            excerpt=accepted.excerpt,
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
