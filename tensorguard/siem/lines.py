"""JSON lines for log shippers: appended to a file of this host, or printed by this process."""

import fcntl
import os
import select
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from tensorguard.siem.answer import Answer, Verdict
from tensorguard.siem.item import Batch, Item, SinkClient
from tensorguard.siem.lane import Lane

MAX_ITEMS: Final = 1_000
MAX_BYTES: Final = 4_000_000
_LOCK_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.01


class LinesClient(SinkClient):
    """Writes a batch at a time; a file is accepted once the disk has it."""

    max_items = MAX_ITEMS
    max_bytes = MAX_BYTES

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._lane = Lane("sink-lines")

    async def send(self, batch: Batch, *, now: datetime) -> Answer:
        """Write one line for each item."""
        lines = b"".join(item.document + b"\n" for item in batch.items)
        try:
            await self._lane.run(partial(self._write, lines))
        except OSError as error:
            return Answer(
                verdict=Verdict.RETRY,
                code="write-failed",
                reason=f"cannot be written: {error.strerror or error}",
            )
        return Answer(verdict=Verdict.ACCEPTED, code="accepted", reason="written")

    def redated(self, item: Item, now: datetime) -> bool:
        """Never."""
        return False

    async def close(self) -> None:
        """Nothing stays open between batches: a file may be rotated away."""
        self._lane.close()


def append_to(path: Path, lines: bytes) -> None:
    """Append to a file that only its owner reads; a line that a crash has torn is ended first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    file = os.open(path, flags, 0o600)
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(f"{path.name} is no file")
        # A test from another process, or an exporter that another has taken over from, writes too.
        _wait_for(partial(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB), _LOCK_S)
        about = os.fstat(file)
        if about.st_size and os.pread(file, 1, about.st_size - 1) != b"\n":
            lines = b"\n" + lines
        _write_all(file, lines)
        os.fsync(file)
    finally:
        os.close(file)


class StandardOutput:
    """This process's standard output; who reads it slowly is waited for, and not for ever.

    Lines of several sinks, and of other processes of ours that share it, stay whole.
    """

    def __init__(self, file: int = 1, *, timeout_s: float = 30.0) -> None:
        self._file = file
        self._timeout_s = timeout_s
        self._is_torn = False
        self._one_at_a_time = threading.Lock()

    def write(self, lines: bytes) -> None:
        """Write lines; one that was torn the last time is ended first. Raises: OSError."""
        deadline = time.monotonic() + self._timeout_s
        if not self._one_at_a_time.acquire(timeout=self._timeout_s):
            raise TimeoutError("nobody reads the standard output")
        try:
            with alone_on(self._file, within_s=deadline - time.monotonic()):
                self._write(lines, deadline)
        finally:
            self._one_at_a_time.release()

    def _write(self, lines: bytes, deadline: float) -> None:
        view = memoryview(b"\n" + lines if self._is_torn else lines)
        poll = select.poll()
        poll.register(self._file, select.POLLOUT)
        while view:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError("nobody reads the standard output")
            # What is ready takes this much without blocking (PIPE_BUF).
            written = os.write(self._file, view[: select.PIPE_BUF])
            self._is_torn = view[written - 1] != ord("\n")
            view = view[written:]


@contextmanager
def alone_on(file: int, *, within_s: float) -> Iterator[None]:
    """Keep other processes of ours from writing there: in the midst of a line, say.

    By a lock of POSIX, which holds for whoever has the same pipe, terminal or file, also by
    inheritance; what knows no locks is used without. Raises: TimeoutError.
    """
    has_lock = True
    try:
        _wait_for(partial(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB), within_s)
    except TimeoutError:
        raise
    except OSError:
        has_lock = False
    try:
        yield
    finally:
        if has_lock:
            fcntl.lockf(file, fcntl.LOCK_UN)


def _wait_for(lock: Callable[[], None], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            return lock()
        except (BlockingIOError, PermissionError):  # of POSIX either means that another has it
            if time.monotonic() >= deadline:
                raise TimeoutError("another process writes there") from None
            time.sleep(_LOOK_EVERY_S)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
