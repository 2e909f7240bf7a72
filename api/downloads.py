"""How many downloads run at the same time, fleet by fleet."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tensorguard.services.deployments.release_errors import TooManyDownloads


class Downloads:
    """Counts the downloads of one process, so that no fleet takes all of its bandwidth."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: Counter[str] = Counter()

    @contextmanager
    def one(self, fleet: str) -> Iterator[None]:
        """Count a download while it runs. Raises: TooManyDownloads."""
        if self._running[fleet] >= self._most:
            raise TooManyDownloads(f"{self._most} downloads run in fleet {fleet}")
        self._running[fleet] += 1
        try:
            yield
        finally:
            self._running[fleet] -= 1
            if not self._running[fleet]:
                del self._running[fleet]
