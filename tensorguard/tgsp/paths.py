"""Paths inside a package: which are safe to write, and which collide."""

import unicodedata
from collections.abc import Iterable

from tensorguard.tgsp.errors import BadPath

MAX_NAME_BYTES = 255  # of ext4, XFS, APFS and tmpfs alike
MAX_PATH_BYTES = 1024  # PATH_MAX of macOS, the smallest of our platforms


def check_path(path: str) -> None:
    """Accept a relative path of plain names with '/' between them.

    Raises:
        BadPath: absolute, '..', '.', an empty name, a backslash, a control character (NUL among
            them), not encodable as UTF-8, or too long for a file system.
    """
    shown = ascii(path[:200])
    try:
        encoded = path.encode()
    except UnicodeEncodeError as error:
        raise BadPath(f"the path {shown} is not valid Unicode") from error
    if "\\" in path or any(unicodedata.category(char) == "Cc" for char in path):
        raise BadPath(f"the path {shown} has a backslash or a control character")
    names = path.split("/")
    if any(name in ("", ".", "..") for name in names):
        raise BadPath(f"the path {shown} is not a plain relative path")
    if len(encoded) > MAX_PATH_BYTES or any(len(name.encode()) > MAX_NAME_BYTES for name in names):
        raise BadPath(f"the path {shown} is too long")


def check_paths(paths: Iterable[str]) -> None:
    """Accept safe paths that stay apart on every file system.

    File systems that ignore case or the Unicode form would let one file replace another, so
    names that differ only so are refused, for folders too; as is a file where a folder must be.

    Raises:
        BadPath: one is unsafe, or two collide.
    """
    seen: dict[str, tuple[str, bool]] = {}  # folded path → (its spelling, it is a file)
    for path in paths:
        check_path(path)
        names = path.split("/")
        for count in range(1, len(names) + 1):
            here, is_file = "/".join(names[:count]), count == len(names)
            folded = _fold(here)
            if folded not in seen:
                seen[folded] = (here, is_file)
                continue
            spelling, was_file = seen[folded]
            if is_file or was_file or spelling != here:
                raise BadPath(f"the paths {spelling!a} and {path!a} collide")


def _fold(path: str) -> str:
    """Canonical caseless form (Unicode standard, section 3.13, D145)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())
