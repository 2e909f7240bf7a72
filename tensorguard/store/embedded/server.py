"""Starts and stops an embedded PostgreSQL as a direct child of this process."""

import asyncio
import fcntl
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psycopg

from tensorguard.store.embedded.binaries import (
    check_traversable,
    current_user,
    find_binaries,
    server_user,
)
from tensorguard.store.embedded.cluster import (
    APP_ROLE,
    OWNER_ROLE,
    SERVER_ENVIRONMENT,
    SUPERUSER,
    Cluster,
    failure,
    wait_exit,
)
from tensorguard.store.embedded.errors import DirectoryInUse, EmbeddedPostgresError
from tensorguard.store.embedded.leftovers import end_leftovers
from tensorguard.store.roles import create_database, create_roles

DATABASE = "tensorguard"

_UNRESPONSIVE_S = 60.0
"""How long a starting server may say nothing at all."""
_RECOVERY_S = 900.0
"""How long it may say that it is starting up: replaying its log after a crash."""
_MEMORY_IN_USE_S = 30.0
"""How long the backends of a killed server may keep its shared memory."""
_FAST_STOP_S = 30.0
_IMMEDIATE_STOP_S = 10.0


class EmbeddedPostgres:
    """A PostgreSQL server under a directory of its own, reachable on a Unix socket only.

    `start` and `stop` are not bound to one event loop: tests use `asyncio.run(server.start())`.
    Call `start` from the main thread: on Linux the server ends with the thread that started it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool = True,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        """Describe a server; nothing is touched before `start`.

        directory: made if absent; everything that belongs to the server is in it.
        durable: false trades safety against a crash of the machine for speed, for tests.
        on_line: gets each line that the server logs, from a thread of its own.
        """
        self._cluster = Cluster(directory.resolve(), server_user(), durable)
        self._on_line = on_line
        self._last_lines: deque[str] = deque(maxlen=20)
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._lock: int | None = None
        self._socket_directory: Path | None = None

    @property
    def superuser_url(self) -> str:
        """The URL of the database for the role that may do everything (`postgres`)."""
        return self.url(SUPERUSER)

    @property
    def owner_url(self) -> str:
        """The URL of the database for the role that owns it (`tg_owner`)."""
        return self.url(OWNER_ROLE)

    @property
    def app_url(self) -> str:
        """The URL of the database for the role of the services (`tg_app`)."""
        return self.url(APP_ROLE)

    def url(self, role: str, database: str = DATABASE) -> str:
        """A libpq URL for any role and database of this server, once it has started."""
        if self._socket_directory is None:
            raise EmbeddedPostgresError("The server has not been started.")
        host = quote(str(self._socket_directory), safe="/")
        return f"postgresql://{role}@/{database}?host={host}&port=5432"

    @property
    def pid(self) -> int | None:
        """The process id of the running postmaster."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Make what is missing, end what an earlier run left, and return when roles exist.

        Raises: EmbeddedPostgresError, with a subclass for each cause that has a way out.
        """
        cluster = self._cluster
        cluster.create_directory()
        self._take_lock()
        try:
            check_traversable(cluster.data, cluster.user)
            binaries = await asyncio.to_thread(find_binaries, cluster.directory, user=cluster.user)
            await end_leftovers(cluster)
            await cluster.create(binaries)
            cluster.write_access_rules(platform_user=current_user())
            self._socket_directory = cluster.create_socket_directory()
            await self._run(binaries / "postgres")
            await self._create_roles()
        except OSError as error:
            await self.stop()
            raise failure(str(error), str(error)) from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the server (fast: open transactions are rolled back) and wait until it is gone."""
        process = self._process
        if process is not None:
            for signal_number, timeout_s in (
                (signal.SIGINT, _FAST_STOP_S),
                (signal.SIGQUIT, _IMMEDIATE_STOP_S),
                (signal.SIGKILL, _IMMEDIATE_STOP_S),
            ):
                process.send_signal(signal_number)
                if await wait_exit(process, timeout_s=timeout_s) is not None:
                    break
            self._forget_process()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def wait(self) -> int:
        """Return the exit status of the server when it has ended by itself."""
        if self._process is None:
            raise EmbeddedPostgresError("The server is not running.")
        while (status := self._process.poll()) is None:  # noqa: ASYNC110 - as in wait_exit
            await asyncio.sleep(0.1)
        return status

    def _take_lock(self) -> None:
        if self._lock is not None:
            raise EmbeddedPostgresError("The server has been started already.")
        path = self._cluster.directory / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise DirectoryInUse(
                f"Another process runs a PostgreSQL in {self._cluster.directory}."
            ) from error
        self._lock = lock

    async def _run(self, program: Path) -> None:
        """Spawn the server until it answers; once more while an old one's memory is in use."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _MEMORY_IN_USE_S
        while True:
            self._spawn(program)
            if await self._answers():
                return
            self._forget_process()
            said = "\n".join(self._last_lines)
            if "pre-existing shared memory block" not in said or loop.time() > give_up_at:
                raise failure(f"PostgreSQL did not start: {said}", said)
            await asyncio.sleep(0.5)

    def _spawn(self, program: Path) -> None:
        self._last_lines.clear()
        self._process = subprocess.Popen(  # noqa: S603 - our own binary
            self._cluster.user.run(program, *self._arguments()),
            cwd="/",
            env=SERVER_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is for its parent to handle
        )
        self._reader = threading.Thread(target=self._read_lines, args=(self._process,), daemon=True)
        self._reader.start()

    def _arguments(self) -> list[str]:
        cluster = self._cluster
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_directory),
            "unix_socket_permissions": "0700",
            "port": "5432",
            "hba_file": str(cluster.hba_file),
            "ident_file": str(cluster.ident_file),
            "cluster_name": cluster.name,
            "max_connections": "100",
            "shared_buffers": "128MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            "log_line_prefix": "",
            "log_min_error_statement": "panic",  # statements may hold secrets
        }
        if not cluster.durable:
            settings |= dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit"), "off")
        options = [argument for item in settings.items() for argument in ("-c", "=".join(item))]
        return ["-D", str(cluster.data), *options]

    def _read_lines(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            return
        with process.stdout:
            for line in process.stdout:
                text = line.decode(errors="replace").rstrip()
                self._last_lines.append(text)
                if self._on_line is not None:
                    self._on_line(text)

    def _forget_process(self) -> None:
        if self._reader is not None:
            self._reader.join(timeout=5)
        self._process = self._reader = None

    async def _answers(self) -> bool:
        """Wait until the server accepts a connection; false when it ends instead.

        Raises: EmbeddedPostgresError after the time-out.
        """
        loop = asyncio.get_running_loop()
        silent_until, recovery_until = loop.time() + _UNRESPONSIVE_S, loop.time() + _RECOVERY_S
        url = self.url(SUPERUSER, "postgres")
        while self._process is not None and self._process.poll() is None:
            try:
                connection = await psycopg.AsyncConnection.connect(url, connect_timeout=10)
            except psycopg.OperationalError as error:
                limit = recovery_until if "starting up" in str(error) else silent_until
                if loop.time() > limit:
                    raise EmbeddedPostgresError(f"PostgreSQL does not answer: {error}") from error
            else:
                await connection.close()
                return True
            await asyncio.sleep(0.05)
        return False

    async def _create_roles(self) -> None:
        url = self.url(SUPERUSER, "postgres")
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await create_roles(connection)
            await create_database(connection, DATABASE)
