"""An object in a bucket as a raw file: one request while it is read on, a new one elsewhere."""

import io
from collections.abc import Callable
from typing import Any, Final

from tensorguard.store.bucket import Bucket
from tensorguard.store.bucket_errors import translate
from tensorguard.store.package_store import PackageStoreUnavailable

_TRIES: Final = 4


class ObjectReader(io.RawIOBase):
    """Reads one version of an object; goes on where it was cut. Blocks: for a thread."""

    def __init__(self, bucket: Bucket, key: str, version: str, size_bytes: int) -> None:
        super().__init__()
        self._get: Callable[[int], Any] = lambda first: bucket.client.get_object(
            Bucket=bucket.name, Key=key, IfMatch=version, Range=f"bytes={first}-"
        )["Body"]
        self._size_bytes = size_bytes
        self._at = 0
        self._body: Any = None

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can seek, at the price of a request."""
        return True

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an absolute place."""
        if whence != io.SEEK_SET or offset < 0:
            raise io.UnsupportedOperation("only absolute places")
        if offset != self._at:
            self._hang_up()
            self._at = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        """Read on. Raises: PackageStoreUnavailable."""
        view = memoryview(buffer).cast("B")
        if not view or self._at >= self._size_bytes:
            return 0
        error: Exception | None = None
        for _ in range(_TRIES):
            try:
                self._body = self._body or self._get(self._at)
                data = self._body.read(len(view))
            except Exception as caught:
                error = caught
                self._hang_up()
                continue
            if data:
                view[: len(data)] = data
                self._at += len(data)
                return len(data)
            self._hang_up()  # ended before the object did
        raise translate(error) if error else PackageStoreUnavailable("the object ended early")

    def close(self) -> None:
        """Let go of the connection."""
        self._hang_up()
        super().close()

    def _hang_up(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()
