"""Datadog's log intake, POST /api/v2/logs.

Source: "Send logs" in Datadog's API reference, with its limits.
"""

import gzip
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from tensorguard.siem.answer import Answer, failed
from tensorguard.siem.http_answer import judge_status
from tensorguard.siem.http_client import HttpClient
from tensorguard.siem.item import Batch, Item, SinkClient
from tensorguard.siem.ocsf import shortened

MAX_ITEMS: Final = 1_000
MAX_BYTES: Final = 4_000_000
"""Of the documents; the array with its labels stays below 5 MB."""
MAX_ITEM_BYTES: Final = 1_000_000
LABELS_BYTES: Final = 2_000
OLDEST: Final = timedelta(hours=18)
"""What is older is dropped there without a word."""
_STATUSES: Final = {1: "info", 3: "warn", 4: "error", 5: "critical"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatadogTarget:
    """Where logs go, and how they are labelled."""

    url: str
    api_key: str = field(repr=False)
    host: str
    service: str = "tensorguard"
    tags: str = ""


class DatadogClient(SinkClient):
    """Sends batches as compressed JSON arrays, one request at a time."""

    max_items = MAX_ITEMS
    max_bytes = MAX_BYTES

    def __init__(self, target: DatadogTarget, http: HttpClient) -> None:
        self._target = target
        self._http = http
        self._url = f"{target.url.rstrip('/')}/api/v2/logs"

    async def send(self, batch: Batch, *, now: datetime) -> Answer:
        """Send; only 202 is an acceptance."""
        array = b"[" + b",".join(self._log(item, now) for item in batch.items) + b"]"
        headers = {
            "DD-API-KEY": self._target.api_key,
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
        }
        body = gzip.compress(array, compresslevel=1, mtime=0)
        try:
            answer = await self._http.post(self._url, headers, body)
        except Exception as error:
            return failed(error)
        secrets = [self._target.api_key]
        return judge_status(answer, now, secrets=secrets, accepted=(202,))

    def redated(self, item: Item, now: datetime) -> bool:
        """Tell whether Datadog would drop it for its age: then it gets the present time."""
        return now - item.time > OLDEST

    async def close(self) -> None:
        """End the connection."""
        await self._http.close()

    def _log(self, item: Item, now: datetime) -> bytes:
        is_old = self.redated(item, now)
        target = self._target
        log: dict[str, Any] = {
            "ddsource": "tensorguard",
            "ddtags": target.tags,
            "hostname": target.host,
            "service": target.service,
            "status": _STATUSES.get(item.severity_id, "info"),
            "timestamp": round((now if is_old else item.time).timestamp() * 1000),
            "message": item.message[:1000],
        }
        if is_old:
            log["original_time"] = item.time.astimezone(UTC).isoformat()
        log["ocsf"] = msgspec.Raw(shortened(item, MAX_ITEM_BYTES - LABELS_BYTES))
        return msgspec.json.encode(log)
