"""The loop of the hub: one exporter for a sink among all hubs, and one that is killed."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

from hub.exporter import Exporter
from hub.sink_export import ExportWork, Pace
from hub.sink_locks import SinkLocks
from tensorguard.services.sinks import sink_changes
from tests.integration.sinks.far_end import NAME, HttpsEnd, hang, serving
from tests.integration.sinks.lab import Half, Lab
from tests.integration.sinks.strict_ends import TOKEN, StrictHec
from tests.patience import PATIENCE_S
from tests.postgres import Database

QUICK = timedelta(milliseconds=10)


def new_exporter(lab: Lab, database: Database) -> Exporter:
    work = ExportWork(
        sessions=lab.sessions,
        kek=lab.kek,
        outside=lab.outside,
        clock=lab.clock,
        random=Half(1),
        pace=Pace(idle=QUICK, first=QUICK),
    )
    return Exporter(work, SinkLocks(database.app_url), look_every=QUICK)


@contextlib.asynccontextmanager
async def running(*exporters: Exporter) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for exporter in exporters:
            tasks.create_task(exporter.run(stop))
        yield stop
        stop.set()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110  what is waited for is in another process, or a row
            await asyncio.sleep(0.01)


async def test_of_two_hubs_one_sends_and_the_other_goes_on_when_it_ends(
    lab: Lab, fresh_database: Database
) -> None:
    strict = StrictHec()
    async with serving(HttpsEnd(strict, lab.authority.server_context())) as end:
        sink = await lab.sink("splunk", TOKEN, url=f"https://{NAME}:{end.port}")
        await lab.write(200)
        other = new_exporter(lab, fresh_database)
        async with running(new_exporter(lab, fresh_database)):
            await until(lambda: len(strict.taken) == 201)
            async with running(other):
                await lab.write(200)
                await until(lambda: len(strict.taken) == 401)
                assert end.connections == 1
        async with running(other):
            await lab.write(50)
            await until(lambda: len(strict.taken) == 451)
            await lab.change(sink_changes.pause_sink, sink.id)
            await lab.write(50)
            await lab.change(sink_changes.resume_sink, sink.id)
            await lab.sign()
            await until(lambda: len(strict.taken) == 503)
        assert strict.indexes == list(range(503))


async def test_a_sink_that_hangs_does_not_delay_another(lab: Lab, fresh_database: Database) -> None:
    slow, quick = StrictHec(), StrictHec()
    tls = lab.authority.server_context()
    async with (
        serving(HttpsEnd(slow, tls)) as slow_end,
        serving(HttpsEnd(quick, tls)) as quick_end,
    ):
        slow_end.troubles += [hang] * 1_000
        for name, end in (("a-slow", slow_end), ("quick", quick_end)):
            await lab.sink("splunk", TOKEN, url=f"https://{NAME}:{end.port}", name=name)
        await lab.write(1_000)
        async with running(new_exporter(lab, fresh_database)) as stop:
            await until(lambda: len(quick.taken) == 1_002)
            assert len(slow_end.requests) == 1
            await slow_end.stop()
            stop.set()


async def test_an_exporter_that_is_killed_loses_nothing_and_keeps_the_order(
    lab: Lab, fresh_database: Database
) -> None:
    strict = StrictHec()
    async with serving(HttpsEnd(strict, lab.authority.server_context("localhost"))) as end:
        url = f"https://localhost:{end.port}"
        await lab.sink("splunk", TOKEN, url=url)
        await lab.write(4_000)
        for kill_at in (600, None):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.integration.sinks.exporter_process",
                fresh_database.app_url,
                str(lab.folder),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            await until(lambda at=kill_at: _is_there(strict, at))  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            await process.wait()
    order: list[int] = []
    for index in strict.indexes:
        if order and index <= order[-1]:  # only where it was cut, and then on from there
            assert index > order[-1] - 1_000
            del order[index:]
        order.append(index)
    assert order == list(range(4_001))


def _is_there(strict: StrictHec, kill_at: int | None) -> bool:
    return len(strict.taken) >= kill_at if kill_at else 4_000 in strict.indexes[-1:]
