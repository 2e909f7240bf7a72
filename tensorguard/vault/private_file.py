"""Files that only their owner can read: written whole or not at all, refused if open to others."""

import os
import secrets
import stat
from pathlib import Path

from tensorguard.vault.errors import KeyMissing, PermissionDenied, Unavailable


def read_private(path: Path, limit_bytes: int) -> bytes:
    """The first `limit_bytes` of a file that nobody but its owner can reach.

    Raises: KeyMissing, PermissionDenied, Unavailable.
    """
    try:
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            return file.read(limit_bytes)
    except FileNotFoundError:
        raise KeyMissing(f"there is no file {path}") from None
    except PermissionError:
        raise PermissionDenied(
            f"{path} cannot be read", hint="Run the program as the owner of the file."
        ) from None
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from None


def create_private(path: Path, content: bytes) -> bool:
    """Make a file of mode 0600, and its directories of mode 0700; False if it exists already.

    It is written under another name and linked: of several that create it, one wins for all.
    Raises: Unavailable.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = _write_temporary(path, content)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _sync_directory(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    return True


def replace_private(path: Path, content: bytes) -> None:
    """Put a file of mode 0600 in the place of `path`. Raises: Unavailable."""
    try:
        _write_temporary(path, content).replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PermissionDenied(f"{path} is not a regular file", hint="Name the file itself.")
    if status.st_mode & 0o077:
        raise PermissionDenied(
            f"{path} is open to others: mode {stat.S_IMODE(status.st_mode):04o}",
            hint=f"chmod 600 {path}; if others can have read it, replace what is in it.",
        )
    if os.geteuid() not in (0, status.st_uid) and status.st_uid != 0:
        raise PermissionDenied(
            f"{path} belongs to another user", hint="Run the program as the owner of the file."
        )


def _write_temporary(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            temporary.unlink()
            raise
    return temporary


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"{path} cannot be written: {error.strerror}",
        hint="Check that the directory exists, is writable and has space.",
    )
