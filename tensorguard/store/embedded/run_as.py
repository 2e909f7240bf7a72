"""Becomes another program, as an unprivileged user, that ends when its parent does.

Run by path, as `python -I -S run_as.py PARENT UID GID PROGRAM [ARGUMENT…]`: a process of its own
because Linux forgets the parent-death signal at setuid, so that it has to be set after it and
before exec, and because Python code between fork and exec is not safe beside threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with_parent(parent: int) -> None:
    """Have the kernel send SIGINT (PostgreSQL's fast shutdown) when the parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before the line above
        sys.exit("the parent process has ended")


def main(arguments: list[str]) -> None:
    parent, uid, gid = (int(argument) for argument in arguments[:3])
    if os.geteuid() == 0:
        os.setgroups([gid])
        os.setgid(gid)
        os.setuid(uid)
    os.umask(0o077)
    if sys.platform == "linux":
        _die_with_parent(parent)
    os.execv(arguments[3], arguments[3:])  # noqa: S606 - exec without a shell is what this is for


if __name__ == "__main__":
    main(sys.argv[1:])
