"""The NATS server's process: a direct child that dies with its parent, and never two on a store."""

import asyncio
import fcntl
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from pathlib import Path
from typing import Final

import structlog

from broker.nats.errors import NatsServerMissing, NodeError, NodeInUse
from broker.nats.reasons import damage_in, errors_in, explain
from tensorguard.store.embedded import run_as

_log = structlog.get_logger()
_PROGRAM: Final = "nats-server"
# How long the server of a keeper that was killed may take to end: PDEATHSIG has told it to.
_LEFTOVER_S: Final = 30.0
_STOP_S: Final = 10.0
# The lame duck's 30 s (NATS's least), in which sessions end one after the other, and some.
_LAME_DUCK_S: Final = 40.0
_LOG_TAIL_BYTES: Final = 64 * 1024


def find_program(given: Path | None) -> Path:
    """Where the server's program is: as given, beside the interpreter, or on the path.

    Raises: NatsServerMissing.
    """
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise NatsServerMissing(f"TG_NATS_SERVER: there is no program {given}")
        return Path(found)
    beside = str(Path(sys.executable).parent)
    found = shutil.which(_PROGRAM, path=beside) or shutil.which(_PROGRAM)
    if found is None:
        raise NatsServerMissing(f"no {_PROGRAM} beside {sys.executable} or on the path")
    return Path(found)


class NatsServer:
    """One server on one configuration file; may be started once."""

    def __init__(self, program: Path, configuration: Path, *, lock: Path, log: Path) -> None:
        """lock: a file that is locked while the server lives, whoever started it."""
        self._program = program
        self._configuration = configuration
        self._lock = lock
        self._log = log
        self._log_start = 0
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._last_lines: deque[str] = deque(maxlen=10)

    @property
    def pid(self) -> int | None:
        """The process id, once it was started."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Spawn it; call from the main thread, with whose end Linux ends it.

        Raises: NodeInUse, NodeError.
        """
        lock = await self._take_lock()
        try:
            self._log_start = self._log.stat().st_size if self._log.exists() else 0
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                # The child holds the lock too: it is free when both are gone.
                pass_fds=(lock,),
                start_new_session=True,
            )
        except OSError as error:
            raise NodeError(f"{self._program} cannot be run: {error.strerror}") from None
        finally:
            os.close(lock)
        self._reading = asyncio.create_task(self._read_lines(), name="nats-server output")

    async def wait(self) -> int:
        """Return its exit status when it has ended."""
        if self._process is None:
            raise NodeError("the server was not started")
        status = await self._process.wait()
        if self._reading is not None:
            await self._reading
        return status

    def reload(self) -> None:
        """Have it read configuration and certificates again."""
        self._signal(signal.SIGHUP)

    async def stop(self, *, gently: bool) -> None:
        """End it; `gently` ends sessions one after the other and hands leadership over first."""
        steps = [(signal.SIGTERM, _STOP_S), (signal.SIGKILL, _STOP_S)]
        if gently:
            steps.insert(0, (signal.SIGUSR2, _LAME_DUCK_S))
        for number, within_s in steps:
            self._signal(number)
            try:
                async with asyncio.timeout(within_s):
                    await self.wait()
            except TimeoutError:
                _log.warning("nats_server_did_not_end", signal=number.name, waited_s=within_s)
            else:
                return

    def errors(self) -> list[str]:
        """What it has said since its start that is an error, the last lines last."""
        return [*self._last_lines, *errors_in(self._log_tail())]

    def damage(self) -> list[str]:
        """What it has said since its start of things that it could not recover."""
        return damage_in(self._log_tail())

    def obituary(self, status: int) -> NodeError:
        """Why it has ended by itself."""
        return explain(self.errors(), status)

    def _command(self) -> list[str]:
        server = [str(self._program), "-c", str(self._configuration)]
        if sys.platform != "linux":
            return server
        # Not as another user: it reads what only this one may.
        ids = [str(number) for number in (os.getpid(), os.geteuid(), os.getegid())]
        return [sys.executable, "-I", "-S", str(run_as.__file__), *ids, *server]

    async def _take_lock(self) -> int:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _LEFTOVER_S
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        waited = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if loop.time() > give_up_at:
                    os.close(lock)
                    raise NodeInUse(f"another NATS server runs in {self._lock.parent}") from None
            else:
                return lock
            if not waited:
                _log.warning("nats_server_of_earlier_run_awaited")
                waited = True
            await asyncio.sleep(0.05)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _read_lines(self) -> None:
        """Take what it says before it has a log, such as what is wrong in its configuration."""
        if self._process is None or self._process.stdout is None:
            return
        stream = self._process.stdout
        while chunk := await stream.read(_LOG_TAIL_BYTES):
            for line in chunk.decode(errors="replace").splitlines():
                self._last_lines.append(line[:500])
                _log.warning("nats_server_said", line=line[:500])

    def _log_tail(self) -> list[str]:
        try:
            with self._log.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                start = self._log_start if self._log_start <= size else 0  # it was rotated
                file.seek(max(start, size - _LOG_TAIL_BYTES))
                return file.read(_LOG_TAIL_BYTES).decode(errors="replace").splitlines()
        except OSError:
            return []
