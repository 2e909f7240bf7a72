"""What people do with sinks, in a real browser, against a strict collector of Splunk's kind."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.platform.operator import Operator
from tests.integration.sinks.far_end import Authority, HttpsEnd
from tests.integration.sinks.strict_ends import TOKEN, StrictHec

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[StrictHec, HttpsEnd, Authority]]:
    """A collector in a thread of its own; it does not take that a sink was paused."""
    authority, strict = Authority(tmp_path), StrictHec()
    strict.refuses = lambda document: document["metadata"]["event_code"] == "sink.paused"
    end = HttpsEnd(strict, authority.server_context("localhost"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(end.start(), loop).result()
    yield strict, end, authority
    asyncio.run_coroutine_threadsafe(end.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_sink_is_tried_out_added_paused_stopped_replayed_and_deleted(
    journey: Callable[..., dict[str, Any]],
    operator: Operator,
    collector: tuple[StrictHec, HttpsEnd, Authority],
) -> None:
    strict, end, authority = collector
    measured = journey(
        "sinks",
        patience_s=250,
        collector=f"https://localhost:{end.port}",
        ca=authority.pem,
        token=TOKEN,
        pictures=os.environ.get("TG_PICTURES", ""),
    )
    sent = [one["metadata"]["event_code"] for one in strict.taken]
    assert sent.count("platform.initialised") >= 2  # from the first entry on, and once more
    assert sent[0] == "sink.test"
    entries = operator.entries(type="sink", subject=measured["id"])
    assert [entry["type"].removeprefix("sink.") for entry in entries] == [
        *("created", "paused", "resumed"),
        *("dead-letters-replayed", "dead-letter-discarded", "secret-rotated", "stopped"),
        *("secret-rotated", "resumed", "replayed", "deleted"),
    ]
