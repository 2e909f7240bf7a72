"""Results appear under their final name whole and durable, or not at all."""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from tensorguard.tgsp.errors import OutOfSpace, OutputExists

SUFFIX = ".partial"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)


@contextmanager
def staged_file(final: Path) -> Iterator[FileIO]:
    """Give a file to write beside `final`; at the end it is fsynced and renamed to it.

    After an exception nothing is left. An existing file is replaced.

    Raises:
        OutOfSpace, OutputExists
    """
    _sweep(final)
    partial = _name_partial(final)
    with _cleaned_up(final, partial), FileIO(partial, "xb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield file
        os.fsync(file.fileno())
        _publish(partial, final)


@contextmanager
def staged_directory(final: Path) -> Iterator[Path]:
    """Give a directory (0700) to fill beside `final`; at the end it is fsynced and renamed to it.

    After an exception nothing is left. `final` may be an empty directory.

    Raises:
        OutOfSpace, OutputExists
    """
    if final.is_symlink() or (final.exists() and not _is_empty_directory(final)):
        raise OutputExists(f"{final} is there already and not an empty folder")
    _sweep(final)
    partial = _name_partial(final)
    with _cleaned_up(final, partial):
        partial.mkdir(mode=0o700)
        descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield partial
            _fsync_tree(partial)
            _publish(partial, final)
        finally:
            os.close(descriptor)


def check_space(final: Path, size_bytes: int) -> None:
    """Refuse what cannot fit, before the first byte is written.

    Raises:
        OutOfSpace: the file system has less room.
    """
    try:
        free_bytes = shutil.disk_usage(final.parent).free
    except OSError:
        return  # what is wrong with the place is told when something is made there
    if size_bytes > free_bytes:
        raise OutOfSpace(f"{final} needs {size_bytes} bytes, {free_bytes} are free")


def write_all(file: FileIO, data: memoryview) -> None:
    """Write all of the data; a raw file may take less than it is given at a time."""
    while data:
        data = data[file.write(data) :]


def _name_partial(final: Path) -> Path:
    return final.with_name(f"{final.name}.{secrets.token_hex(6)}{SUFFIX}")


@contextmanager
def _cleaned_up(final: Path, partial: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        _remove(partial)
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise OutOfSpace(f"no space for {final}: {error.strerror}") from error
        raise


def _publish(partial: Path, final: Path) -> None:
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno in _OCCUPIED:
            raise OutputExists(f"{final} is in the way: {error.strerror}") from error
        raise
    _fsync_directory(final.parent)


def _sweep(final: Path) -> None:
    """Remove what earlier runs left when they were killed; living ones hold a lock."""
    leftover = re.compile(re.escape(final.name) + r"\.[0-9a-f]{12}" + re.escape(SUFFIX))
    for path in final.parent.iterdir():
        if not leftover.fullmatch(path.name):
            continue
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # its owner was faster
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_empty_directory(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _fsync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            _fsync(Path(folder, name), os.O_RDONLY)
        _fsync_directory(Path(folder))


def _fsync_directory(path: Path) -> None:
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
