"""The node's log as a front follows it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import structlog

from broker.nats.log import Denial, Line, NodeLog
from broker.nats.metrics import NatsMetrics

AGENT = "01a20682-1062-7eb1-ba4a-f96c1212521f"


def line(cid: int) -> str:
    return (
        f"[1] 2026/11/23 03:45:16.930748 [ERR] 127.0.0.1:34960 - mid:{cid} - "
        f'"{AGENT}" - Publish Violation - Subject "a"\n'
    )


def denial(cid: int) -> Denial:
    return Denial(cid, UUID(AGENT), "publish", "a")


@contextlib.asynccontextmanager
async def followed(path: Path | None) -> AsyncIterator[tuple[asyncio.Queue[Line], NatsMetrics]]:
    heard: asyncio.Queue[Line] = asyncio.Queue()
    metrics = NatsMetrics()
    following = asyncio.create_task(NodeLog(path, metrics, heard.put_nowait).run())
    try:
        yield heard, metrics
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def is_read(metrics: NatsMetrics) -> bool:
    return metrics.registry.get_sample_value("tensorguard_broker_node_log_read") == 1.0


async def until_read(metrics: NatsMetrics) -> None:
    async with asyncio.timeout(20):
        while not is_read(metrics):  # noqa: ASYNC110  a gauge
            await asyncio.sleep(0.01)


async def test_what_is_written_from_now_on_is_heard_also_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(line(1))
    async with followed(path) as (heard, metrics):
        await until_read(metrics)
        with path.open("a") as log:
            log.write(line(2) + line(3)[:40])
            log.flush()
            assert await asyncio.wait_for(heard.get(), 20) == denial(2)
            log.write(line(3)[40:])
        assert await asyncio.wait_for(heard.get(), 20) == denial(3)


async def test_a_log_that_is_replaced_or_cut_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(line(1) * 3)
    async with followed(path) as (heard, metrics):
        await until_read(metrics)
        path.rename(tmp_path / "log.1")
        path.write_text(line(2))
        assert await asyncio.wait_for(heard.get(), 20) == denial(2)
        path.write_text("")
        await asyncio.sleep(0.5)  # is what the front takes to look; a cut that grows again is lost
        path.write_text(line(3))
        assert await asyncio.wait_for(heard.get(), 20) == denial(3)


async def test_a_log_out_of_reach_is_said_once_and_read_when_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with structlog.testing.capture_logs() as logs:
        async with followed(path) as (heard, metrics):
            await asyncio.sleep(0.7)  # several looks
            assert not is_read(metrics)
            path.write_text(line(1))
            assert await asyncio.wait_for(heard.get(), 20) == denial(1)
            assert is_read(metrics)
    said = [entry for entry in logs if entry["event"] == "node_log_out_of_reach"]
    assert len(said) == 1
    assert said[0]["reason"] == "No such file or directory"


async def test_a_front_without_the_log_says_so(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        async with followed(None) as (_, metrics):
            await asyncio.sleep(0)
            assert not is_read(metrics)
    assert [entry["event"] for entry in logs] == ["node_log_out_of_reach"]
