"""Splunk HEC, Datadog and a webhook receiver, each stricter than the original."""

import gzip
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from standardwebhooks.webhooks import Webhook

from tests.integration.sinks.far_end import Reply, Request

TOKEN = "4f6e3f0a-11d5-4a4a-9a37-1d3d7c0a5b11"
API_KEY = "0123456789abcdef0123456789abcdef"
Refuses = Callable[[dict[str, Any]], bool]


def index_of(document: dict[str, Any]) -> int:
    return int(document["unmapped"]["integrity"]["leaf_index"])


def _no(document: dict[str, Any]) -> bool:
    return False


class StrictHec:
    """Takes a whole batch or nothing of it, as Splunk does; `acknowledges` after so many polls."""

    def __init__(self, *, acknowledges: int | None = None, most_bytes: int = 1_000_000) -> None:
        self.taken: list[dict[str, Any]] = []
        self.refuses: Refuses = _no
        self.names_bad = True
        self._acknowledges = acknowledges
        self._most_bytes = most_bytes
        self._acks: dict[tuple[str, int], int] = {}
        self.polls = 0
        self.never_acknowledges: set[int] = set()

    @property
    def indexes(self) -> list[int]:
        return [index_of(one) for one in self.taken]

    def __call__(self, request: Request) -> Reply:
        path, _, query = request.path.partition("?")
        if "authorization" not in request.headers:
            return _hec(401, 2, "Token is required")
        if request.headers["authorization"] != f"Splunk {TOKEN}":
            return _hec(403, 4, "Invalid token")
        if path == "/services/collector/ack":
            return self._answer_acks(request, query)
        if path != "/services/collector/event":
            return Reply(404, b'{"text":"The requested URL was not found","code":404}')
        channel = request.headers.get("x-splunk-request-channel")
        if self._acknowledges is not None and channel is None:
            return _hec(400, 10, "Data channel is missing")
        if len(request.body) > self._most_bytes:
            return Reply(413, b"content-length too large")
        events = list(_concatenated(request.body.decode()))
        if not events:
            return _hec(400, 5, "No data")
        for number, event in enumerate(events):
            if problem := self._problem(event):
                code, text = problem
                more = {"invalid-event-number": number} if self.names_bad else {}
                return _hec(400, code, text, **more)
        self.taken += [event["event"] for event in events]
        if self._acknowledges is None:
            return _hec(200, 0, "Success")
        assert channel is not None
        ack_id = len(self._acks)
        self._acks[channel, ack_id] = self._acknowledges
        return _hec(200, 0, "Success", ackId=ack_id)

    def _problem(self, event: dict[str, Any]) -> tuple[int, str] | None:
        if not set(event) <= {"time", "host", "source", "sourcetype", "index", "event"}:
            return 6, "Invalid data format"
        if not re.fullmatch(r"[0-9]{10}\.[0-9]{3}", str(event.get("time"))):
            return 6, "Invalid data format"
        if "event" not in event:
            return 12, "Event field is required"
        if not event["event"]:
            return 13, "Event field cannot be blank"
        if event.get("index", "main") != "main" or self.refuses(event["event"]):
            return 7, "Incorrect index"
        return None

    def _answer_acks(self, request: Request, query: str) -> Reply:
        channel = query.removeprefix("channel=")
        found = {}
        self.polls += 1
        for ack_id in json.loads(request.body)["acks"]:
            left = self._acks.get((channel, ack_id))
            if ack_id in self.never_acknowledges:
                left = None
            if left is not None:
                self._acks[channel, ack_id] = left - 1
            found[str(ack_id)] = left == 0  # said once: Splunk forgets it then
        return Reply(200, json.dumps({"acks": found}).encode())


class StrictDatadog:
    """Refuses what Datadog cuts or drops without a word."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.taken: list[dict[str, Any]] = []
        self.most_items = 1_000
        self._clock = clock

    @property
    def indexes(self) -> list[int]:
        return [index_of(one["ocsf"]) for one in self.taken]

    def __call__(self, request: Request) -> Reply:
        if request.path != "/api/v2/logs":
            return Reply(404)
        if request.headers.get("dd-api-key") != API_KEY:
            return Reply(403, b'{"errors":[{"title":"Forbidden"}]}')
        if request.headers.get("content-encoding") != "gzip":
            return Reply(400, b"not compressed")
        body = gzip.decompress(request.body)
        if len(body) > 5_000_000:
            return Reply(413)
        logs = json.loads(body)
        if not isinstance(logs, list) or not 1 <= len(logs) <= self.most_items:
            return Reply(413)
        now = self._clock()
        for log in logs:
            size = len(json.dumps(log, separators=(",", ":"), ensure_ascii=False).encode())
            sent_at = datetime.fromtimestamp(log["timestamp"] / 1000, UTC)
            if size > 1_000_000 or now - sent_at > timedelta(hours=18):
                return Reply(400, b"would be cut or dropped")
        self.taken += logs
        return Reply(202, b"{}")


class StrictWebhook:
    """Verifies with the reference implementation of Standard Webhooks; one id counts once."""

    def __init__(self, *secrets: str) -> None:
        self.secrets = list(secrets)
        self.ids: list[str] = []
        self.messages: dict[str, dict[str, Any]] = {}

    @property
    def indexes(self) -> list[int]:
        return [
            index_of(entry)
            for message in self.messages.values()
            for entry in message["data"]["entries"]
        ]

    def __call__(self, request: Request) -> Reply:
        for secret in self.secrets:
            found = Webhook(secret).verify(request.body, request.headers)
        assert set(found) == {"type", "timestamp", "data"}
        self.ids.append(request.headers["webhook-id"])
        self.messages[request.headers["webhook-id"]] = found
        return Reply(204)


def _hec(status: int, code: int, text: str, **more: Any) -> Reply:
    return Reply(status, json.dumps({"text": text, "code": code, **more}).encode())


def _concatenated(text: str) -> list[dict[str, Any]]:
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        event, at = decoder.raw_decode(text, at)
        found.append(event)
    return found
