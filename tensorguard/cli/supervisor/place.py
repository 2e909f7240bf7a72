"""The data directory, and the locks that keep two platforms out of it."""

import asyncio
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

from tensorguard.cli.supervisor.errors import AlreadyRunning, BadSettings

_LEFTOVERS_S = 60.0
"""More than a service takes to end after its parent (lifeline.install)."""


def default_data_directory() -> Path:
    """The machine's as root, the user's otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/tensorguard")
    return platformdirs.user_data_path("tensorguard", appauthor=False)


def create_data_directory(path: Path) -> Path:
    """Make the directory unless it exists, and return its full path. Raises: BadSettings.

    As root it is open to pass through, because PostgreSQL in it runs as another user; the files in
    it that hold secrets are closed themselves.
    """
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        if not path.is_dir():
            raise BadSettings(f"{path} is not a directory.") from None
    except OSError as error:
        raise BadSettings(
            f"{path} cannot be made: {error.strerror}.", hint="Choose another --data-dir."
        ) from error
    else:
        path.chmod(0o711 if os.geteuid() == 0 else 0o700)
    if not os.access(path, os.W_OK | os.X_OK):
        raise BadSettings(
            f"This user may not write to {path}.", hint="Choose another --data-dir, or chown it."
        )
    return path.resolve()


class DataDirectoryLock:
    """Held by this process, and a second one by its children: they may outlive a kill -9 of us."""

    def __init__(self, directory: Path) -> None:
        """Take the first lock. Raises: AlreadyRunning."""
        self._own = _open(directory / "up.lock")
        if not _lock(self._own):
            pid = os.pread(self._own, 32, 0).decode(errors="replace").strip()
            os.close(self._own)
            raise AlreadyRunning(f"Another 'tensorguard up' (process {pid}) runs in {directory}.")
        os.truncate(self._own, 0)
        os.pwrite(self._own, f"{os.getpid()}\n".encode(), 0)
        self.children = _open(directory / "services.lock")
        """The descriptor that every service inherits."""

    async def wait_for_leftovers(self, announce: Callable[[], None]) -> None:
        """Return when no service of an earlier run is alive. Raises: AlreadyRunning.

        announce: called once if there is anything to wait for.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _LEFTOVERS_S
        announced = False
        while not _lock(self.children):
            if not announced:
                announce()
                announced = True
            if loop.time() > give_up_at:
                raise AlreadyRunning(
                    "Services of an earlier run are still alive.",
                    hint="Look for 'tensorguard.cli' among this machine's processes and end them.",
                )
            await asyncio.sleep(0.1)

    def close(self) -> None:
        """Release both."""
        os.close(self.children)
        os.close(self._own)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
