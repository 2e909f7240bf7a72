"""What keeps package files: uploads come in here, and what was verified stays, written once."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol
from uuid import UUID

from tensorguard.store.errors import StoreError

SUFFIX: Final = ".tgsp"
INCOMING: Final = "incoming"


class StoreFull(StoreError):
    """The package store has no room."""

    code = "package-store-full"
    hint = "Free space where packages are kept; the upload goes on where it stopped."


class FileTooLarge(StoreError):
    """More bytes came than may be stored."""

    code = "package-too-large"
    hint = "Raise TG_PACKAGE_LIMIT_BYTES, or make the package smaller."


class PackageStoreUnavailable(StoreError):
    """The package store did not do what it was asked for; it may at the next try."""

    code = "package-store-unavailable"
    hint = "Look at the service's log, and at the store that TG_PACKAGE_STORE names."
    retry_after_s = 5


class UploadLost(StoreError):
    """The package store knows nothing of an upload that the database knows."""

    code = "upload-lost"
    hint = "Begin the upload again."


@dataclass(frozen=True, slots=True)
class Place:
    """Where an upload comes in; `handle` is whatever the store said when it began."""

    upload_id: UUID
    handle: str | None = None


@dataclass(frozen=True, slots=True)
class IncomingFile:
    """A file that came whole, and lies where nobody is served from.

    `version` tells its bytes from others under the same name. `open` blocks, and gives a raw file
    that can seek.
    """

    place: Place
    size_bytes: int
    version: str
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Link:
    """Where the store itself hands out a file, for a minute at most; the URL is a credential."""

    url: str


class PackageStore(Protocol):
    """Files by their package's digest, and uploads that grow until they are verified.

    Whoever calls holds the upload's lease: no two calls for one upload at a time. Every method
    raises PackageStoreUnavailable where the store does not answer.
    """

    max_bytes: int
    """The largest file that the store can take."""

    async def prepare(self) -> None:
        """Make sure that the store can be used; called once, when a service starts."""

    async def begin(self, upload_id: UUID, length_bytes: int | None) -> str | None:
        """Make room for an upload; return the store's handle for it. Raises: StoreFull."""

    async def offset(self, place: Place) -> int:
        """Return how many bytes of an upload are here to stay. Raises: UploadLost."""

    async def append(
        self, place: Place, blocks: AsyncIterator[bytes], *, offset: int, length_bytes: int | None
    ) -> int:
        """Write what comes next, durably; return the new offset. `offset` is the present one.

        After an error the store may hold some of it: its offset says how much.
        Raises: StoreFull, UploadLost, and what `blocks` raises.
        """

    async def finish(self, place: Place, length_bytes: int) -> IncomingFile:
        """Return the whole file; may be called again. Raises: UploadLost."""

    async def stage(self, incoming: IncomingFile, digest: bytes, sha256: bytes) -> None:
        """Do what takes long of `keep`. Nothing is replaced that another upload may have kept."""

    async def keep(self, incoming: IncomingFile, digest: bytes, sha256: bytes) -> str:
        """Let a staged file have its final name, durably; return its store key.

        The caller holds the lock of this digest and has made sure that no row names the key, so
        that what lies there was left by a crash.
        """

    async def discard(self, place: Place) -> None:
        """Remove what there is of an upload; nothing of it is no error."""

    async def list_strays(self) -> list[str]:
        """Return the names of incoming files; those that no row knows are to be removed."""

    async def remove_stray(self, name: str) -> None:
        """Remove an incoming file that no row knows."""

    async def find(self, key: str, *, head: bool = False) -> Path | Link | None:
        """Return where the file of a store key is handed out from; None if it is gone.

        A link is for GET, or for HEAD alone.
        """

    async def close(self) -> None:
        """Let go of connections and threads."""


def store_key(digest: bytes) -> str:
    """Return the name of a package's file, relative to the store."""
    return f"{digest.hex()[:2]}/{digest.hex()}{SUFFIX}"
