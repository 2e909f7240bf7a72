"""A platform where very much happens: its own table of hints, filled from outside."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import psycopg

from tensorguard.store.embedded.running import find_app_url
from tests.integration.platform.running import RunningPlatform
from tests.patience import PATIENCE_S

HINTS_PER_SECOND = 200
_BATCHES_PER_SECOND = 10
# All different between two reads of the stream, which tells the same thing once.
_OTHERS = [str(uuid4()) for _ in range(500)]
_INSERT = """
    INSERT INTO stream_events (kind, subject_id, fleet, count, at)
    SELECT 'agent', id, NULL::text, NULL::bigint, now() FROM unnest(%(ids)s::text[]) AS id
    UNION ALL SELECT 'heartbeats', NULL, NULL, %(heartbeats)s, now()
"""


@contextmanager
def hints_by_the_hundred(platform: RunningPlatform, ids: Sequence[str]) -> Iterator[None]:
    """Until the end, 200 hints a second about other agents, and some about these in each batch."""
    url = find_app_url(platform.data / "postgres")
    assert url is not None, "the platform does not run"
    stop = threading.Event()
    failures: list[Exception] = []

    def pour() -> None:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                _pour(connection, ids, stop)
        except Exception as error:  # it is told at the end, on the test's own thread
            failures.append(error)

    thread = threading.Thread(target=pour, name="hints")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=PATIENCE_S)
    assert not failures, failures


def _pour(
    connection: psycopg.Connection[tuple[object, ...]], ids: Sequence[str], stop: threading.Event
) -> None:
    began = time.monotonic()
    size = HINTS_PER_SECOND // _BATCHES_PER_SECOND
    batch = 0
    while not stop.is_set():
        some = [_OTHERS[(batch * size + n) % len(_OTHERS)] for n in range(size)]
        connection.execute(_INSERT, {"ids": [*ids, *some], "heartbeats": len(ids)})
        batch += 1
        stop.wait(max(0.0, began + batch / _BATCHES_PER_SECOND - time.monotonic()))
