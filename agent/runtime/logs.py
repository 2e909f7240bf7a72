"""The newest lines of the agent's own log, for who asks for them by a signed command."""

import json
from collections import deque
from collections.abc import MutableMapping
from typing import Any, Final

MAX_LINES: Final = 300
MAX_LINE_CHARACTERS: Final = 300
MAX_BYTES: Final = 32 * 1024  # a reply has to fit into a message


class LogRing:
    """A processor of structlog that remembers what passes; old lines go."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)

    def __call__(
        self, logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Remember an event and hand it on."""
        self._lines.append(json.dumps(dict(event), default=str)[:MAX_LINE_CHARACTERS])
        return event

    def newest(self) -> list[str]:
        """Return the newest lines that fit into a reply, oldest first."""
        found: list[str] = []
        size = 0
        for line in reversed(self._lines):
            size += len(json.dumps(line)) + 2
            if size > MAX_BYTES:
                break
            found.append(line)
        return found[::-1]
