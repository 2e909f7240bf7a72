"""Whether a folder is kept in memory, so that what lies there is gone with the power."""

import os
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_SWAPS = Path("/proc/swaps")
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def is_memory_backed(folder: Path) -> bool:
    """Whether a folder lies on a tmpfs or ramfs; False where the system does not tell.

    Source: proc_pid_mountinfo(5): fields 3 (major:minor) and the type after the lone hyphen.
    """
    try:
        device = folder.stat().st_dev
        mounts = _MOUNTS.read_text("utf-8", "replace")
    except OSError:
        return False
    place = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split(" ")[2:3] == [place]:
            return source.split(" ")[0] in _IN_MEMORY
    return False


def has_swap() -> bool:
    """Whether the system may move memory, a tmpfs among it, to a disk."""
    try:
        return len(_SWAPS.read_text("ascii", "replace").splitlines()) > 1
    except OSError:
        return False
