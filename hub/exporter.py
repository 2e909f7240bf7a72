"""One exporter for each sink, on whichever hub has its lock; none waits for another."""

import asyncio
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg
import sqlalchemy as sa
import structlog

from hub.presence import pause
from hub.sink_export import ExportWork, SinkExport
from hub.sink_locks import SinkLocks
from tensorguard.services.sinks.sinks import list_sinks

log = structlog.get_logger()
LOOK_EVERY: Final = timedelta(seconds=1)
LAST_BATCH_S: Final = 5.0
"""So long a batch under way may take when the hub ends; what is cut off is sent again."""


class Exporter:
    """Begins and ends the exporters of this hub's sinks."""

    def __init__(
        self, work: ExportWork, locks: SinkLocks, *, look_every: timedelta = LOOK_EVERY
    ) -> None:
        self._work = work
        self._locks = locks
        self._look_every = look_every
        self._running: dict[UUID, asyncio.Task[None]] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Look after sinks until `stop`; trouble with the database ends all of them for a while."""
        try:
            while not stop.is_set():
                try:
                    await self.look(stop)
                except (sa.exc.SQLAlchemyError, psycopg.Error, OSError) as error:
                    log.error("sinks_not_led", reason=str(getattr(error, "orig", error)))
                    await self._end_all(0.0)
                await pause(stop, self._look_every.total_seconds())
        finally:
            await self._end_all(LAST_BATCH_S)

    async def look(self, stop: asyncio.Event) -> None:
        """Begin to send to active sinks that nobody sends to, and let go of those that ended."""
        await self._locks.check()
        for sink_id in [one for one, task in self._running.items() if task.done()]:
            del self._running[sink_id]
            await self._locks.unlock(sink_id)
        async with self._work.sessions() as session:
            found = await list_sinks(session)
        for sink in found:
            if sink.state != "active" or sink.id in self._running:
                continue
            if await self._locks.try_lock(sink.id):
                task = asyncio.create_task(self._serve(sink.id, stop), name=f"sink-{sink.id}")
                self._running[sink.id] = task

    async def _serve(self, sink_id: UUID, stop: asyncio.Event) -> None:
        export, failures = SinkExport(sink_id, self._work), 0
        try:
            while not stop.is_set():
                try:
                    rest = await export.step()
                    failures = 0
                except Exception as error:  # whatever is wrong, the sink goes on once it is over
                    failures += 1
                    rest = self._work.pace.back_off(failures, None, self._work.random)
                    log.error(
                        "sink_export_failed",
                        sink=str(sink_id),
                        error=getattr(error, "code", type(error).__name__),
                        reason=str(getattr(error, "orig", error))[:500],
                        failures=failures,
                    )
                if rest is None:
                    return
                if rest:
                    await pause(stop, rest.total_seconds())
        finally:
            await export.close()

    async def _end_all(self, grace_s: float) -> None:
        tasks = list(self._running.values())
        self._running.clear()
        if tasks and grace_s:
            await asyncio.wait(tasks, timeout=grace_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._locks.close()
