"""The folder in memory where packages that are sealed at rest are opened."""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

import structlog

from tensorguard.tgsp.volatile import has_swap, is_memory_backed

log = structlog.get_logger()


def list_places() -> list[Path]:
    """Where a system has memory for us: systemd's RuntimeDirectory= of our service, and shm.

    Not XDG_RUNTIME_DIR, which goes when the user logs out.
    """
    ours = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    shared = Path("/dev/shm")  # noqa: S108  # mode and owner of what we make there are checked
    return [Path(ours), shared] if ours else [shared]


def find_memory(state_dir: Path, places: Iterable[Path] | None = None) -> Path | None:
    """Make and return the folder (mode 0700) of the agent of `state_dir`; None: there is none.

    It is on a file system in memory, the one with the most room.
    """
    name = hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:16]
    usable = [place for place in places or list_places() if is_memory_backed(place)]
    for place in sorted(usable, key=_free_bytes, reverse=True):
        folder = place / f"tensorguard-agent-{name}"
        if _make_own(folder):
            if has_swap():
                log.warning("memory_may_be_swapped", folder=str(folder), hint="swapoff -a")
            return folder
    return None


def _make_own(folder: Path) -> bool:
    """Make the folder, or take one that only this user can have made and can read."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
    except OSError:
        return False
    own = facts.st_uid == os.geteuid() and not facts.st_mode & 0o077
    return stat.S_ISDIR(facts.st_mode) and own


def _free_bytes(place: Path) -> int:
    return shutil.disk_usage(place).free
