"""Ends what an earlier run of the same cluster has left running, after a kill -9 of its parent."""

import asyncio
import errno
import os
import signal
from pathlib import Path

import psutil

from tensorguard.store.embedded.cluster import Cluster
from tensorguard.store.embedded.errors import EmbeddedPostgresError

_FAST_SHUTDOWN_S = 60.0
_IMMEDIATE_SHUTDOWN_S = 10.0


async def end_leftovers(cluster: Cluster) -> None:
    """Shut down a live postmaster of this cluster, and backends that outlived theirs.

    A pid file is not believed: pids are used again. A process is ours when it belongs to the
    server's user and its command line names our data directory or our cluster.

    Raises: EmbeddedPostgresError when one does not end.
    """
    for asked, timeout_s in (
        (signal.SIGINT, _FAST_SHUTDOWN_S),
        (signal.SIGQUIT, _IMMEDIATE_SHUTDOWN_S),
    ):
        processes = _find_processes(cluster)
        postmasters = [p for p, is_postmaster in processes.items() if is_postmaster]
        for process in postmasters or processes:
            _send(process, asked if postmasters else signal.SIGTERM)
        if await _all_end(list(processes), timeout_s=timeout_s):
            break
    else:
        pids = [process.pid for process in _find_processes(cluster)]
        raise EmbeddedPostgresError(
            f"A PostgreSQL of {cluster.data} does not stop (process {pids}).",
            hint="Stop it by hand, then start again.",
        )
    _disown_pid_file(cluster.data / "postmaster.pid")


def _find_processes(cluster: Cluster) -> dict[psutil.Process, bool]:
    """Our cluster's processes; true for a postmaster."""
    found: dict[psutil.Process, bool] = {}
    for process in psutil.process_iter():
        try:
            if process.name() != "postgres" or process.uids().effective != cluster.user.uid:
                continue
            command = process.cmdline()
        except psutil.Error:  # ended meanwhile, or not ours to look at
            continue
        if str(cluster.data) in command:
            found[process] = True
        elif command and command[0].startswith(f"postgres: {cluster.name}: "):
            found[process] = False
    return found


def _send(process: psutil.Process, signal_number: signal.Signals) -> None:
    try:
        process.send_signal(signal_number)
    except psutil.NoSuchProcess:
        return


async def _all_end(processes: list[psutil.Process], *, timeout_s: float) -> bool:
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while any(process.is_running() and not _is_zombie(process) for process in processes):
        if loop.time() > end:
            return False
        await asyncio.sleep(0.05)
    return True


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _disown_pid_file(path: Path) -> None:
    """Write our own pid over one that now belongs to a stranger.

    PostgreSQL refuses to start while the file's pid lives, whoever that is, except its own parent:
    us. The rest of the file stays, because PostgreSQL finds an old shared memory segment by it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise EmbeddedPostgresError(f"{path} is a symbolic link.") from error
        raise
    with os.fdopen(descriptor, "r+b") as file:
        _, newline, rest = file.read().partition(b"\n")
        file.seek(0)
        file.write(str(os.getpid()).encode() + newline + rest)
        file.truncate()
