"""The package store in a folder: whole files under their digest, uploads below `incoming`."""

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

from tensorguard.store.package_store import (
    INCOMING,
    IncomingFile,
    Place,
    StoreFull,
    UploadLost,
    store_key,
)

_BLOCK_BYTES: Final = 1024 * 1024
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class PackageFiles:
    """Files below `root`: `<aa>/<digest>.tgsp`, and what is still coming in below `incoming`.

    Api hosts that share the folder (NFS) can go on with each other's uploads.
    """

    max_bytes = 2**63 - 1

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / INCOMING

    async def prepare(self) -> None:
        """Make the folders."""
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def begin(self, upload_id: UUID, length_bytes: int | None) -> None:
        """Make an empty file. Raises: StoreFull if the volume has not even this much room now."""
        free = shutil.disk_usage(self._incoming).free
        if length_bytes is not None and length_bytes > free:
            raise StoreFull(f"the package has {length_bytes:,} bytes, and {free:,} are free")
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        with _full_disk_named():
            os.close(os.open(self._path_of(Place(upload_id)), flags, 0o600))

    async def offset(self, place: Place) -> int:
        """Return the file's size. Raises: UploadLost."""
        try:
            return self._path_of(place).stat().st_size
        except FileNotFoundError:
            raise UploadLost(f"the file of upload {place.upload_id} is gone") from None

    async def append(
        self, place: Place, blocks: AsyncIterator[bytes], *, offset: int, length_bytes: int | None
    ) -> int:
        """Write and sync what comes; return the new size. Raises: StoreFull, UploadLost."""
        try:
            descriptor = os.open(self._path_of(place), os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UploadLost(f"the file of upload {place.upload_id} is gone") from None
        try:
            async for block in _gathered(blocks):
                await _finished(partial(_write, descriptor, block, offset))
                offset += len(block)
            await _finished(partial(_sync, descriptor))
        finally:
            os.close(descriptor)
        return offset

    async def finish(self, place: Place, length_bytes: int) -> IncomingFile:
        """Return the whole file. Raises: UploadLost."""
        path = self._path_of(place)
        if await self.offset(place) != length_bytes:
            raise UploadLost(f"the file of upload {place.upload_id} has lost bytes")

        def open_file() -> BinaryIO:
            return path.open("rb", buffering=0)

        return IncomingFile(place, length_bytes, "", open_file)

    async def stage(self, incoming: IncomingFile, digest: bytes, sha256: bytes) -> None:
        """Nothing: to link is quick."""

    async def keep(self, incoming: IncomingFile, digest: bytes, sha256: bytes) -> str:
        """Link the file under its final name, in place of one that a crash has left.

        It keeps its first name as well until it is discarded: if the caller's transaction fails,
        it can be verified and kept again.
        """
        key = store_key(digest)
        await _finished(partial(self._keep, self._path_of(incoming.place), self._root / key))
        return key

    async def discard(self, place: Place) -> None:
        """Remove what there is of an upload."""
        self._path_of(place).unlink(missing_ok=True)

    async def list_strays(self) -> list[str]:
        """Return the names of all that lies in `incoming`."""
        return [path.name for path in self._incoming.iterdir()]

    async def remove_stray(self, name: str) -> None:
        """Remove a file from `incoming`."""
        (self._incoming / name).unlink(missing_ok=True)

    async def find(self, key: str, *, head: bool = False) -> Path | None:
        """Return the path of a stored file; None if it is gone."""
        path = self.path(key)
        return path if await asyncio.to_thread(path.is_file) else None

    async def close(self) -> None:
        """Nothing: no file stays open."""

    def path(self, key: str) -> Path:
        """Return where the file of a store key lies."""
        return self._root / key

    def _path_of(self, place: Place) -> Path:
        return self._incoming / str(place.upload_id)

    def _keep(self, path: Path, final: Path) -> None:
        with _full_disk_named():
            final.parent.mkdir(mode=0o700, exist_ok=True)
            new = final.with_name(final.name + ".new")
            new.unlink(missing_ok=True)
            new.hardlink_to(path)
            new.replace(final)
            new.unlink(missing_ok=True)  # a rename to another link of the same file does nothing
            for folder in (final.parent, self._root):
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)


async def _gathered(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Gather small blocks, so that a thread is asked once a megabyte; a cut loses none of them."""
    gathered = bytearray()
    try:
        async for block in blocks:
            gathered += block
            if len(gathered) >= _BLOCK_BYTES:
                yield bytes(gathered)
                gathered.clear()
    except Exception:
        if gathered:
            yield bytes(gathered)
        raise
    if gathered:
        yield bytes(gathered)


async def _finished(work: Callable[[], None]) -> None:
    """Run `work` in a thread; whoever is cancelled meanwhile waits for its end.

    So the descriptor that it writes to is not closed, and given to another file, before.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _write(descriptor: int, block: bytes, offset: int) -> None:
    view = memoryview(block)
    with _full_disk_named():
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written


def _sync(descriptor: int) -> None:
    with _full_disk_named():
        os.fsync(descriptor)


@contextlib.contextmanager
def _full_disk_named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull("the volume of the package store is full") from None
        raise
