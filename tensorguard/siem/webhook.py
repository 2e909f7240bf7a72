"""Webhooks that whoever receives them can believe: Standard Webhooks 1.0.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from tensorguard.siem.answer import Answer, failed
from tensorguard.siem.errors import BadSink
from tensorguard.siem.http_answer import judge_status
from tensorguard.siem.http_client import HttpClient
from tensorguard.siem.item import Batch, Item, SinkClient
from tensorguard.siem.ocsf import TEST_TYPE, shortened

PREFIX: Final = "whsec_"
MAX_ITEMS: Final = 1_000
MAX_BYTES: Final = 1_000_000
ITEM_BYTES: Final = 900_000
PAYLOAD_TYPE: Final = "ledger.entries"
_MIN_KEY_BYTES, _MAX_KEY_BYTES, _NEW_KEY_BYTES = 24, 64, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookTarget:
    """Where entries go; every secret signs: the new one, and the one before it while both count."""

    url: str
    secrets: Sequence[str] = field(repr=False)
    sink_id: str


class WebhookClient(SinkClient):
    """Sends a batch as one message, whose id is the same however often it is sent."""

    max_bytes = MAX_BYTES

    def __init__(
        self, target: WebhookTarget, http: HttpClient, *, max_items: int = MAX_ITEMS
    ) -> None:
        self.max_items = min(max_items, MAX_ITEMS)
        self._target = target
        self._http = http

    async def send(self, batch: Batch, *, now: datetime) -> Answer:
        """Send; any 2xx is an acceptance, 410 means that nothing is wanted any more."""
        first, last = batch.items[0], batch.items[-1]
        is_test = first.type == TEST_TYPE
        place = (
            f"test_{secrets.token_hex(8)}"
            if is_test
            else (f"{first.epoch}_{first.leaf_index}_{last.leaf_index}")
        )
        message_id = f"msg_{self._target.sink_id.replace('-', '')}_{place}"
        body = self._payload(batch, TEST_TYPE if is_test else PAYLOAD_TYPE, now)
        timestamp = str(int(now.timestamp()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(
                sign(secret, message_id, timestamp, body) for secret in self._target.secrets
            ),
        }
        try:
            answer = await self._http.post(self._target.url, headers, body)
        except Exception as error:
            return failed(error)
        return judge_status(answer, now, secrets=self._target.secrets, stopping=(410,))

    def redated(self, item: Item, now: datetime) -> bool:
        """Never."""
        return False

    async def close(self) -> None:
        """End the connection."""
        await self._http.close()

    def _payload(self, batch: Batch, kind: str, now: datetime) -> bytes:
        head = json.dumps({"type": kind, "timestamp": now.astimezone(UTC).isoformat()})
        note = json.dumps(batch.checkpoint)
        entries = b",".join(shortened(item, ITEM_BYTES) for item in batch.items)
        opened = f'{head[:-1]}, "data": {{"checkpoint": {note}, "entries": ['.encode()
        return opened + entries + b"]}}"


def new_secret() -> str:
    """Return a fresh secret, as both ends keep it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_NEW_KEY_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """Return the key of a `whsec_` secret: 24 to 64 bytes. Raises: BadSink."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(PREFIX) or not _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES:
        raise BadSink("a webhook's secret is whsec_ and the base64 of 24 to 64 bytes")
    return key


def sign(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """Return `v1,` and the base64 of an HMAC-SHA256 over id, timestamp, body. Raises: BadSink."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key_of(secret), signed, hashlib.sha256)).decode()
