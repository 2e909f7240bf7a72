"""JSON lines for log shippers: appended to a file of this host, or printed by this process."""

import os
import select
import stat
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from tensorguard.siem.answer import Answer, Verdict
from tensorguard.siem.item import Batch, Item
from tensorguard.siem.lane import Lane

MAX_ITEMS: Final = 1_000
MAX_BYTES: Final = 4_000_000


class LinesClient:
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
        if about.st_size and os.pread(file, 1, about.st_size - 1) != b"\n":
            lines = b"\n" + lines
        _write_all(file, lines)
        os.fsync(file)
    finally:
        os.close(file)


class StandardOutput:
    """This process's standard output; who reads it slowly is waited for, and not for ever."""

    def __init__(self, file: int = 1, *, timeout_s: float = 30.0) -> None:
        self._file = file
        self._timeout_s = timeout_s
        self._is_torn = False

    def write(self, lines: bytes) -> None:
        """Write lines; one that was torn the last time is ended first. Raises: OSError."""
        view = memoryview(b"\n" + lines if self._is_torn else lines)
        deadline = time.monotonic() + self._timeout_s
        poll = select.poll()
        poll.register(self._file, select.POLLOUT)
        while view:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError("nobody reads the standard output")
            # What is ready takes this much without blocking (PIPE_BUF).
            written = os.write(self._file, view[: select.PIPE_BUF])
            self._is_torn = view[written - 1] != ord("\n")
            view = view[written:]


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
