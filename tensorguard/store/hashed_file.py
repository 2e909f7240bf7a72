"""A file that is hashed while somebody else reads it."""

import hashlib
import io
from typing import Any, BinaryIO, Final

_BLOCK_BYTES: Final = 1024 * 1024


class HashedFile(io.RawIOBase):
    """Reads a file once, from its beginning to its end, and knows the SHA-256 of what was read."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._hasher = hashlib.sha256()
        self._at = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def tell(self) -> int:
        """Return how much was read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Stay where it is: all of the file has to be hashed."""
        if whence != io.SEEK_SET or offset != self._at:
            raise io.UnsupportedOperation("a file that is hashed is read from end to end")
        return offset

    def readinto(self, buffer: Any) -> int:
        """Read on."""
        count: int = self._file.readinto(buffer) or 0  # type: ignore[attr-defined]  # a raw file
        self._hasher.update(memoryview(buffer)[:count])
        self._at += count
        return count

    def digest_of_all(self) -> bytes:
        """Read what is left, and return the SHA-256 of the whole file."""
        block = bytearray(_BLOCK_BYTES)
        while self.readinto(block):
            pass
        return self._hasher.digest()
