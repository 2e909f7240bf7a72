"""One line a record on stderr, whoever said it: readable on a terminal, JSON anywhere else."""

import json
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from io import TextIOBase
from typing import Any, TextIO

_COLOURS = ("36", "33", "32", "35", "34")
_NOT_REPEATED = ("event", "level", "time", "timestamp", "service")


def utc_now() -> datetime:
    return datetime.now(UTC)


class Output:
    """Writes the records of all services; may be used from any thread."""

    def __init__(
        self,
        stream: TextIO | TextIOBase | None = None,
        *,
        as_json: bool | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._stream: TextIO | TextIOBase = sys.stderr if stream is None else stream
        self._as_json = not self._stream.isatty() if as_json is None else as_json
        self._now = now
        self._lock = threading.Lock()
        self._services: list[str] = []

    def say(self, event: str, *, level: str = "info", **facts: Any) -> None:
        """Write a record of our own."""
        self._write("up", {"event": event, "level": level, **facts})

    def relay(self, service: str, line: str) -> None:
        """Write a line that a service printed: its own record, or any text."""
        record: Any = None
        if line.startswith("{"):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
        self._write(service, record if isinstance(record, dict) else {"event": line})

    def _write(self, service: str, record: dict[str, Any]) -> None:
        time = record.get("timestamp") or record.get("time")
        if self._as_json:
            moment = time or self._now().isoformat(timespec="milliseconds")
            rest = {key: value for key, value in record.items() if key not in ("time", "timestamp")}
            text = json.dumps({"time": moment, **rest, "service": service}, default=str)
        else:
            text = self._readable(service, record)
        with self._lock:
            try:
                self._stream.write(f"{text}\n")
                self._stream.flush()
            except (OSError, ValueError):
                return  # nobody reads any more; the services go on

    def _readable(self, service: str, record: dict[str, Any]) -> str:
        with self._lock:
            if service not in self._services:
                self._services.append(service)
            colour = _COLOURS[self._services.index(service) % len(_COLOURS)]
        level = str(record.get("level", "info"))
        mark = "" if level in ("info", "debug") else f"{level.upper()} "
        facts = " ".join(f"{k}={v}" for k, v in record.items() if k not in _NOT_REPEATED)
        clock = self._now().astimezone().strftime("%H:%M:%S")
        return f"{clock} \x1b[{colour}m{service:<8}\x1b[0m {mark}{record.get('event', '')} {facts}"
