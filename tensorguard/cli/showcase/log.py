"""A log file that does not grow for ever."""

import io
import os
from pathlib import Path

LIMIT_BYTES = 20 * 1024 * 1024


class RotatingLog(io.TextIOBase):
    """Text to write to; at the limit the file becomes `NAME.1`, and that of before is gone."""

    def __init__(self, path: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._limit_bytes = limit_bytes
        self._file = _open(path)

    def write(self, text: str) -> int:
        if self._file.tell() > self._limit_bytes:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = _open(self._path)
        return self._file.write(text)

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(path: Path) -> io.TextIOWrapper:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "a", encoding="utf-8", errors="replace")
