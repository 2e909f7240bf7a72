"""The files of an embedded PostgreSQL: its cluster, its access rules, its socket directory."""

import asyncio
import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tensorguard.store.embedded.binaries import OsUser, server_major
from tensorguard.store.embedded.errors import (
    DiskFull,
    EmbeddedPostgresError,
    ForeignVersion,
    SocketUnusable,
)

SUPERUSER = "postgres"
OWNER_ROLE = "tg_owner"
APP_ROLE = "tg_app"
SERVER_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}
"""What the server's programs see of our environment: nothing that changes what they do."""

_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_PATH_MAX_BYTES = 107 if sys.platform == "linux" else 103  # sun_path without its NUL
_INITDB_TIMEOUT_S = 180.0
_NO_SPACE = (os.strerror(errno.ENOSPC), "Check free disk space")
"""What the C library, and PostgreSQL after a short write, say of a full disk."""


@dataclass(frozen=True)
class Cluster:
    """Where everything is under the directory that an embedded PostgreSQL was given."""

    directory: Path
    user: OsUser
    durable: bool

    @property
    def data(self) -> Path:
        """PGDATA: belongs to the server's user alone."""
        return self.directory / "data"

    @property
    def hba_file(self) -> Path:
        return self.directory / "pg_hba.conf"

    @property
    def ident_file(self) -> Path:
        return self.directory / "pg_ident.conf"

    @property
    def name(self) -> str:
        """A short name that no other directory has; the processes carry it in their titles."""
        return f"tg-{hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]}"

    def create_directory(self) -> None:
        """Make the directory, open enough for the server's user to pass through."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700 if self.user.uid == os.geteuid() else 0o711)

    def write_access_rules(self, *, platform_user: OsUser) -> None:
        """Let exactly the platform's user and the server's own be our roles, on the socket only."""
        names = sorted({platform_user.name, self.user.name})
        roles = (SUPERUSER, OWNER_ROLE, APP_ROLE)
        idents = [f'tensorguard "{name}" {role}' for name in names for role in roles]
        for path, lines in (
            (self.hba_file, ["local all all peer map=tensorguard"]),
            (self.ident_file, idents),
        ):
            path.write_text("".join(f"{line}\n" for line in lines))
            path.chmod(0o644)

    def create_socket_directory(self) -> Path:
        """A directory that only the server's user can enter, short enough for a socket in it.

        Raises: SocketUnusable when the short one belongs to somebody else.
        """
        inside = self.directory / "run"
        if len(os.fsencode(inside / _SOCKET_NAME)) <= _SOCKET_PATH_MAX_BYTES:
            return self._own(inside)
        given = os.environ.get("XDG_RUNTIME_DIR") if os.geteuid() != 0 else None
        return self._own(Path(given or "/tmp") / self.name)  # noqa: S108 - owner and mode verified

    def _own(self, folder: Path) -> Path:
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass
        else:
            os.chown(folder, self.user.uid, self.user.gid)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != self.user.uid:
            raise SocketUnusable(
                f"{folder} is not a directory of the user {self.user.name}.",
                hint=f"Remove {folder}, or choose a data directory with a shorter path.",
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            folder.chmod(0o700)
        if len(os.fsencode(folder / _SOCKET_NAME)) > _SOCKET_PATH_MAX_BYTES:
            raise SocketUnusable(
                f"{folder} is too long for a Unix socket ({_SOCKET_PATH_MAX_BYTES} bytes).",
                hint="Choose a data directory with a shorter path, or unset XDG_RUNTIME_DIR.",
            )
        return folder

    async def create(self, binaries: Path) -> None:
        """Run initdb, unless it has finished before; one that was interrupted is done again.

        Raises: DiskFull, ForeignVersion, EmbeddedPostgresError.
        """
        for interrupted in self.directory.glob("initdb-*"):
            await _remove(interrupted)
        if self.data.exists():
            self._check_version()
            return
        fresh = Path(tempfile.mkdtemp(prefix="initdb-", dir=self.directory))
        os.chown(fresh, self.user.uid, self.user.gid)
        await self._initdb(binaries, fresh)
        self._adopt(fresh)

    def _adopt(self, fresh: Path) -> None:
        """Give a finished cluster its name: from here on it is never made again."""
        fresh.rename(self.data)
        if self.durable:
            _sync_directory(self.directory)

    async def _initdb(self, binaries: Path, target: Path) -> None:
        command = self.user.run(
            binaries / "initdb",
            *(f"--pgdata={target}", f"--username={SUPERUSER}", "--auth=peer"),
            *("--encoding=UTF8", "--locale=C"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--data-checksums", "--no-instructions"),
            *(() if self.durable else ("--no-sync",)),
        )
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(  # noqa: ASYNC220 S603 - forks at once; the main thread, which the parent-death signal watches, has to do it
                command,
                cwd="/",
                env=SERVER_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                status = await wait_exit(process, timeout_s=_INITDB_TIMEOUT_S)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            output.seek(0)
            said = output.read().decode(errors="replace")
        if status != 0:
            reason = "did not end in time" if status is None else f"failed (status {status})"
            raise failure(f"initdb {reason}: {said.strip()[-2000:]}", said)

    def _check_version(self) -> None:
        theirs = (self.data / "PG_VERSION").read_text().strip()
        if theirs != server_major():
            raise ForeignVersion(
                f"{self.data} was made by PostgreSQL {theirs}, and {server_major()} is installed."
            )


def failure(message: str, output: str) -> EmbeddedPostgresError:
    """The error for what a server program printed before it gave up."""
    full = any(phrase in output for phrase in _NO_SPACE)
    return DiskFull(message) if full else EmbeddedPostgresError(message)


async def wait_exit(process: subprocess.Popen[bytes], *, timeout_s: float) -> int | None:
    """The exit status of a process, or None when it still runs after the time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while process.poll() is None and loop.time() < end:  # noqa: ASYNC110 - no portable event tells of it
        await asyncio.sleep(0.02)
    return process.returncode


async def _remove(folder: Path) -> None:
    """Remove a folder in which a last child of a killed initdb may still be writing."""
    for _ in range(50):
        try:
            await asyncio.to_thread(shutil.rmtree, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
            await asyncio.sleep(0.1)
        else:
            return
    raise EmbeddedPostgresError(f"{folder} cannot be removed.", hint=f"rm -r {folder}")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
