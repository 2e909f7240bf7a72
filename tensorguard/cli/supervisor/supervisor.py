"""Keeps children running: started, started again when they end, stopped in reverse order."""

import asyncio
import random
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tensorguard.cli.supervisor.child import Child, describe_status
from tensorguard.cli.supervisor.output import Output

_BACKOFF_FIRST_S = 1.0
_BACKOFF_MAX_S = 30.0
_STABLE_AFTER_S = 60.0
"""A child that has run this long starts again with the first back-off."""


class Supervisor:
    """An async context: what `start` has started is stopped, last first, when the context ends."""

    def __init__(
        self, output: Output, *, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._output = output
        self._uniform = uniform
        self._children: list[Child] = []
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._hasten = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        running = [child for child in reversed(self._children) if child.name in self._keepers]
        self._output.say("stopping", services=[child.name for child in running])
        for child in running:
            keeper = self._keepers[child.name]
            keeper.cancel()
            await asyncio.wait([keeper])
            await child.stop(self._hasten)
            self._output.say("service_stopped", name=child.name)

    def hasten(self) -> None:
        """Stop waiting for children that are asked to end: end them."""
        self._hasten.set()

    async def start(self, *children: Child) -> None:
        """Start children at the same time and keep each running from when it is ready.

        Raises: what the first child to fail raises; those that were not ready are ended then.
        """
        self._children += children
        starts = [asyncio.create_task(self._start(child)) for child in children]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.wait(starts)
            raise

    async def _start(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await child.start()
        took_ms = round((loop.time() - began) * 1000)
        self._output.say("service_ready", name=child.name, took_ms=took_ms)
        keeper = asyncio.create_task(self._keep(child), name=f"keep {child.name}")
        self._keepers[child.name] = keeper

    async def _keep(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            status = await child.wait()
            lived_s = loop.time() - began
            failures = 0 if lived_s > _STABLE_AFTER_S else failures
            self._output.say(
                "service_ended",
                level="error",
                name=child.name,
                status=describe_status(status),
                lived_s=round(lived_s, 1),
            )
            while not await self._started_again(child, failures):
                failures += 1
            failures += 1

    async def _started_again(self, child: Child, failures: int) -> bool:
        """One attempt after a pause (full jitter, doubling); false when it failed."""
        limit_s = min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2 ** min(failures, 16))
        pause_s = self._uniform(0.0, limit_s)
        self._output.say(
            "service_restarting", level="warning", name=child.name, in_s=round(pause_s, 1)
        )
        await asyncio.sleep(pause_s)
        try:
            await child.start()
        except Exception as error:
            self._output.say(
                "service_restart_failed", level="error", name=child.name, error=str(error)
            )
            return False
        self._output.say("service_ready", name=child.name, restarted=True)
        return True
