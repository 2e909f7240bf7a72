"""Where a run keeps its databases and data directories: in memory, where there is much of it."""

import os
import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")
_LEAST_FREE_BYTES = 4 << 30


def keep_temporary_files_in_memory() -> None:
    """Have this process and its children make temporary files in memory, unless told otherwise.

    A database that is made for one test, or syncs after each commit, is dozens of times as fast
    there, and what a test says of it is the same: a process that is killed takes no file with it.
    """
    if "TMPDIR" in os.environ or not _MEMORY.is_dir() or not os.access(_MEMORY, os.W_OK):
        return
    may_run_programs = not os.statvfs(_MEMORY).f_flag & getattr(os, "ST_NOEXEC", 0)
    if may_run_programs and shutil.disk_usage(_MEMORY).free >= _LEAST_FREE_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)
