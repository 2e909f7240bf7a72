"""The health check: the device's own command says whether what was activated does its work."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.runtime.inference import ModelFailed

TIMEOUT_S = 60.0
_SHOWN_BYTES = 200
_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A command that exits with 0 where all is well; without a shell, so that nothing expands.

    It sees the package's folder and digest as TG_PACKAGE_DIR and TG_PACKAGE_DIGEST. What it leaves
    behind goes on; where it does not end in time, all of it is killed.
    """

    command: Sequence[str]
    timeout_s: float = TIMEOUT_S

    def run(self, directory: Path, digest: str) -> None:
        """Run it. Raises: ModelFailed."""
        try:
            process = subprocess.Popen(  # noqa: S603  # the operator of the device has given it
                list(self.command),
                env=os.environ | {"TG_PACKAGE_DIR": str(directory), "TG_PACKAGE_DIGEST": digest},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise ModelFailed(
                "unhealthy", f"the health check does not start: {error.strerror}"
            ) from None
        with process:
            end = _follow(process, time.monotonic() + self.timeout_s)
            if end is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if end is None:
            reason = f"the health check did not end in {self.timeout_s:g} s"
            raise ModelFailed("unhealthy", reason)
        if process.returncode:
            said = end.decode(errors="replace").strip() or "no word"
            reason = f"the health check ended with {process.returncode}: {said}"
            raise ModelFailed("unhealthy", reason)


def _follow(process: subprocess.Popen[bytes], until_s: float) -> bytes | None:
    """Return the end of what it says once it has ended; None: not in time.

    However much that is, only its end is kept, and a child of it may hold the pipe for ever.
    """
    assert process.stdout is not None
    said, ended, end = process.stdout.fileno(), os.pidfd_open(process.pid), b""
    open_ends = [said, ended]
    try:
        while (left_s := until_s - time.monotonic()) > 0:
            ready, _, _ = select.select(open_ends, [], [], left_s)
            if said in ready:
                data = os.read(said, _READ_BYTES)
                end = (end + data)[-_SHOWN_BYTES:]
                if not data:
                    open_ends.remove(said)
            elif ended in ready:
                return end
    finally:
        os.close(ended)
    return None
