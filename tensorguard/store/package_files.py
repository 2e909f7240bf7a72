"""The package store of one machine: whole files under their digest, everything else swept away."""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tensorguard.store.errors import StoreError

SUFFIX: Final = ".tgsp"
_INCOMING: Final = "incoming"
_BLOCK_BYTES: Final = 1024 * 1024


class FilesFull(StoreError):
    """The volume of the package store has no room."""

    code = "package-store-full"
    hint = "Free space on the volume that holds the data directory."


class FileTooLarge(StoreError):
    """More bytes came than may be stored."""

    code = "package-too-large"
    hint = "Raise TG_PACKAGE_LIMIT_BYTES, or make the package smaller."


@dataclass(frozen=True, slots=True)
class IncomingFile:
    """A file that came whole and lies on the disk, under a name that nobody serves."""

    path: Path
    size_bytes: int
    sha256: bytes


class PackageFiles:
    """Files below `root`: `<aa>/<digest>.tgsp`, and what is still coming in below `incoming`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / _INCOMING

    def prepare(self) -> int:
        """Make the folders and remove what a crash left of uploads; return how many files.

        What an upload is still using is locked, and stays.
        """
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        return sum(_remove_if_left(path) for path in list(self._incoming.iterdir()))

    @contextlib.asynccontextmanager
    async def receive(
        self, chunks: AsyncIterator[bytes], *, limit_bytes: int
    ) -> AsyncIterator[IncomingFile]:
        """Write a stream to a new file, synced; what was not `keep`-t is gone afterwards.

        Raises: FileTooLarge, FilesFull.
        """
        path = self._incoming / secrets.token_hex(16)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size, digest = await _write(descriptor, chunks, limit_bytes)
            yield IncomingFile(path, size, digest)
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def keep(self, incoming: IncomingFile, digest: bytes) -> str:
        """Give a file its final name, durably, in place of one there; return its store key.

        The caller holds the lock of this digest and has made sure that no row names the old one.
        """
        key = store_key(digest)
        final = self.path(key)
        final.parent.mkdir(mode=0o700, exist_ok=True)
        incoming.path.replace(final)
        for folder in (final.parent, self._root):
            _sync(folder)
        return key

    def path(self, key: str) -> Path:
        """Return where the file of a store key lies."""
        return self._root / key


def store_key(digest: bytes) -> str:
    """Return the name of a package's file, relative to the store."""
    return f"{digest.hex()[:2]}/{digest.hex()}{SUFFIX}"


async def _write(
    descriptor: int, chunks: AsyncIterator[bytes], limit_bytes: int
) -> tuple[int, bytes]:
    """Write and sync a stream; return its size and SHA-256."""
    hasher = hashlib.sha256()
    size = 0
    try:
        async for block in _blocks(chunks):
            size += len(block)
            if size > limit_bytes:
                raise FileTooLarge(f"the file has more than {limit_bytes:,} bytes")
            await asyncio.to_thread(_write_block, descriptor, block, hasher)
        await asyncio.to_thread(os.fsync, descriptor)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FilesFull(f"no room after {size:,} bytes") from None
        raise
    return size, hasher.digest()


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Gather small chunks, so that a thread is asked once a megabyte."""
    gathered = bytearray()
    async for chunk in chunks:
        gathered += chunk
        if len(gathered) >= _BLOCK_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _write_block(descriptor: int, block: bytes, hasher: "hashlib._Hash") -> None:
    hasher.update(block)
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_left(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False
    return True
