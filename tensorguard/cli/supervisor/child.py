"""A service in a process of its own, with its output, its readiness and its end."""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from tensorguard.cli.lifeline import PARENT_PIPE, READY_PIPE
from tensorguard.cli.supervisor.errors import ChildFailed
from tensorguard.cli.supervisor.output import Output

_LINE_MAX_BYTES = 256 * 1024
_DRAIN_S = 2.0


class Child(Protocol):
    """Something that is started, may end by itself, and is stopped."""

    @property
    def name(self) -> str: ...

    async def start(self) -> None:
        """Return when it serves; leave nothing running when that fails. Also starts again."""

    async def wait(self) -> int:
        """Return its exit status when it has ended by itself."""

    async def stop(self, hasten: asyncio.Event) -> None:
        """End it in good order; without further waiting once `hasten` is set."""


@dataclass(frozen=True)
class ChildSpec:
    """How to run a service."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """All of it: nothing of ours is added but the two pipes."""
    ready_within_s: float = 60.0
    stop_within_s: float = 40.0
    """More than the service's own limit (lifeline.install)."""
    prints: bool = False
    """Its standard output is ours: what it prints there is what somebody wants, and no log."""


class ProcessChild:
    """A service that speaks the pipes of lifeline.py, in a session of its own.

    A session of its own, so that Ctrl-C in the terminal reaches only the parent, which stops the
    services in order.
    """

    def __init__(self, spec: ChildSpec, *, output: Output, inherit: Sequence[int]) -> None:
        """inherit: descriptors that the child holds; the first reads end of file when we end."""
        self.name = spec.name
        self._spec = spec
        self._output = output
        self._inherit = tuple(inherit)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._last_lines: deque[str] = deque(maxlen=10)

    async def start(self) -> None:
        """Spawn and wait for the line `ready`.

        Raises: ChildFailed with the last lines of its output.
        """
        await self._kill()  # what an earlier start may have left
        read_end, write_end = os.pipe()
        try:
            await self._spawn(write_end)
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)  # ours; the child has its own
        try:
            await self._become_ready(read_end)
        except BaseException:
            await self._kill()
            raise

    async def wait(self) -> int:
        if self._process is None:
            raise ChildFailed(f"{self.name} is not running.")
        return await self._process.wait()

    async def stop(self, hasten: asyncio.Event) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            _signal(process.pid, signal.SIGTERM, group=False)
            waits = [asyncio.create_task(process.wait()), asyncio.create_task(hasten.wait())]
            await asyncio.wait(
                waits, timeout=self._spec.stop_within_s, return_when=asyncio.FIRST_COMPLETED
            )
            for wait in waits:
                wait.cancel()
            if process.returncode is None:
                self._output.say("service_killed", level="warning", name=self.name)
        await self._kill()

    async def _spawn(self, ready_pipe: int) -> None:
        pipes = {READY_PIPE: str(ready_pipe), PARENT_PIPE: str(self._inherit[0])}
        self._last_lines.clear()
        self._process = await asyncio.create_subprocess_exec(
            *self._spec.command,
            env={**self._spec.environment, **pipes},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=None if self._spec.prints else asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE if self._spec.prints else asyncio.subprocess.STDOUT,
            pass_fds=(ready_pipe, *self._inherit),
            start_new_session=True,
            limit=_LINE_MAX_BYTES,
        )
        self._reading = asyncio.create_task(self._relay_lines(), name=f"{self.name} output")

    async def _become_ready(self, read_end: int) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(read_end, "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            line = await asyncio.wait_for(reader.readline(), self._spec.ready_within_s)
        except TimeoutError:
            raise ChildFailed(
                f"{self.name} was not ready after {self._spec.ready_within_s:g} s."
            ) from None
        finally:
            transport.close()
        if line.strip() != b"ready":
            raise ChildFailed(await self._obituary())

    async def _obituary(self) -> str:
        """What to say of a child that closed its ready pipe without a word."""
        await self._kill()
        status = self._process.returncode if self._process is not None else None
        said = "\n  ".join(self._last_lines)
        return f"{self.name} ended before it was ready ({describe_status(status)}).\n  {said}"

    async def _kill(self) -> None:
        """End what is left of the child's whole group, and take the rest of its output."""
        if self._process is None:
            return
        if self._process.returncode is None:
            _signal(self._process.pid, signal.SIGKILL, group=True)
            await self._process.wait()
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=_DRAIN_S)
            self._reading.cancel()

    async def _relay_lines(self) -> None:
        if self._process is None:
            return
        stream = self._process.stderr if self._spec.prints else self._process.stdout
        if stream is None:
            return
        while True:
            try:
                line = await stream.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                line = end.partial
            except asyncio.LimitOverrunError as overrun:  # one endless line: pass it on in pieces
                line = await stream.readexactly(overrun.consumed)
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            self._output.relay(self.name, text)


def describe_status(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "still running"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit code {status}"


def _signal(pid: int, number: signal.Signals, *, group: bool) -> None:
    try:
        os.killpg(pid, number) if group else os.kill(pid, number)
    except ProcessLookupError:
        return


_PRINT_ENTRIES: Final = ("hub", "api")
"""For sinks of the kind `stdout`: the hub sends, the api tests."""


def python_service(name: str, environment: Mapping[str, str]) -> ChildSpec:
    """The spec of one of the platform's own services: `tensorguard <name> run`."""
    return ChildSpec(
        name=name,
        command=(sys.executable, "-m", "tensorguard.cli", name, "run"),
        environment={**environment, "PYTHONUNBUFFERED": "1"},
        prints=name in _PRINT_ENTRIES,
    )
