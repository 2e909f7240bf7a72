"""Taking an upload's bytes in: in as many requests as it takes, on whichever host they come."""

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import datetime
from typing import Final
from uuid import UUID

from tensorguard.services.deployments import uploads
from tensorguard.services.deployments.upload_errors import (
    ChecksumMismatch,
    UploadComplete,
    UploadIdle,
    UploadNotFound,
    UploadOffsetWrong,
    UploadTooLong,
)
from tensorguard.services.deployments.upload_lease import Held, holding
from tensorguard.services.deployments.uploads import Upload, UploadLimits
from tensorguard.services.evidence.event import Actor
from tensorguard.store.engine import SessionMaker
from tensorguard.store.package_store import FileTooLarge, PackageStore, UploadLost

IDLE_S: Final = 30.0
MAX_CHECKED_BYTES: Final = 8 * 1024 * 1024


class Receiver:
    """Opens uploads and appends to them; `changed` is called when one is whole, or has ended."""

    def __init__(
        self,
        sessions: SessionMaker,
        store: PackageStore,
        clock: Callable[[], datetime],
        *,
        limit_bytes: int,
        limits: UploadLimits | None = None,
        idle_s: float = IDLE_S,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._clock = clock
        self._limits = limits or UploadLimits()
        self._idle_s = idle_s
        self._changed = changed
        self.limit_bytes = min(limit_bytes, store.max_bytes)

    async def begin(self, *, length_bytes: int | None, metadata: str = "", by: Actor) -> Upload:
        """Open an upload; without a length it is whole when its one request ends.

        Raises: FileTooLarge, TooManyUploads, StoreError.
        """
        if length_bytes is not None:
            self._check_size(length_bytes)
        # First the row, so that whatever the store has of an upload is swept with it.
        async with self._sessions.begin() as session:
            upload = await uploads.create_upload(
                session,
                length_bytes=length_bytes,
                metadata=metadata,
                limits=self._limits,
                by=by,
                now=self._clock(),
            )
        try:
            handle = await self._store.begin(upload.id, length_bytes)
            async with self._sessions.begin() as session:
                await uploads.set_handle(session, upload.id, handle)
        except BaseException:
            await self._end(upload)
            raise
        if length_bytes == 0:
            async with self.hold(upload.id) as held:
                await self._complete(held, 0)
            self._changed()
        return await self.get(upload.id, by=by)

    async def get(self, upload_id: UUID, *, by: Actor) -> Upload:
        """Return one of the actor's own uploads. Raises: UploadNotFound."""
        async with self._sessions() as session:
            return await uploads.get_upload(session, upload_id, by=by, now=self._clock())

    async def offset(self, upload: Upload) -> int:
        """Return how many bytes of an upload are here. Raises: StoreError."""
        if upload.state != "receiving":
            return upload.length_bytes or 0
        try:
            return await self._store.offset(upload.place)
        except UploadLost:
            await self._end(upload)  # whoever asks again is told to begin again
            raise

    async def append(
        self,
        upload_id: UUID,
        blocks: AsyncIterator[bytes],
        *,
        offset: int,
        announced_bytes: int | None,
        sha256: bytes | None = None,
        by: Actor,
    ) -> tuple[Upload, int]:
        """Write bytes that begin at `offset`; return the upload and its new offset.

        With a checksum they are first held in memory, 8 MiB at most.
        Raises: UploadNotFound, UploadBusy, UploadComplete, UploadOffsetWrong, UploadTooLong,
            UploadIdle, ChecksumMismatch, LeaseLost, StoreError, and what `blocks` raises.
        """
        await self.get(upload_id, by=by)
        async with self.hold(upload_id) as held:
            have = await self.write(
                held, blocks, offset=offset, announced_bytes=announced_bytes, sha256=sha256
            )
        if held.upload.state == "verifying":
            self._changed()  # only now: nobody else takes what is held
        return await self.get(upload_id, by=by), have

    def hold(self, upload_id: UUID) -> contextlib.AbstractAsyncContextManager[Held]:
        """Hold an upload while the block runs. Raises: UploadBusy, LeaseLost."""
        return holding(self._sessions, upload_id, self._clock)

    async def write(
        self,
        held: Held,
        blocks: AsyncIterator[bytes],
        *,
        offset: int,
        announced_bytes: int | None,
        sha256: bytes | None = None,
    ) -> int:
        """Write as `append` does, to an upload that is held; return the new offset."""
        upload = held.upload
        if upload.expires_at <= self._clock():
            raise UploadNotFound(f"there is no upload {upload.id}")
        if upload.state != "receiving":
            raise UploadComplete(f"upload {upload.id} has all of its bytes")
        have = await self.offset(upload)
        if have != offset:
            raise UploadOffsetWrong(f"upload {upload.id} goes on at {have}, not at {offset}")
        most = (self.limit_bytes if upload.length_bytes is None else upload.length_bytes) - have
        if announced_bytes is not None and announced_bytes > most:
            raise _too_long(upload, most)
        incoming: AsyncIterator[bytes] = self._bounded(upload, blocks, most)
        if sha256 is not None:
            incoming = _one(await _checked(incoming, sha256))
        have = await self._store.append(
            upload.place, incoming, offset=have, length_bytes=upload.length_bytes
        )
        if upload.length_bytes in (None, have):
            await self._complete(held, have)
        return have

    async def drop(self, upload_id: UUID, *, by: Actor) -> None:
        """Delete one of the actor's own uploads. Raises: UploadNotFound, UploadComplete."""
        upload = await self.get(upload_id, by=by)
        if upload.state == "verifying":
            raise UploadComplete(f"upload {upload_id} is being verified")
        await self._end(upload)

    async def _end(self, upload: Upload) -> None:
        async with self._sessions.begin() as session:
            await uploads.end_upload(session, upload.id, now=self._clock())
        self._changed()

    async def _complete(self, held: Held, length_bytes: int) -> None:
        async with self._sessions.begin() as session:
            held.upload = await uploads.become(
                session, held.upload, "verifying", length_bytes=length_bytes, now=self._clock()
            )

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self.limit_bytes:
            raise FileTooLarge(
                f"the package has {size_bytes:,} bytes, {self.limit_bytes:,} are allowed"
            )

    async def _bounded(
        self, upload: Upload, blocks: AsyncIterator[bytes], most: int
    ) -> AsyncGenerator[bytes, None]:
        """Pass blocks on, as long as they come and not more than there may be."""
        async with contextlib.aclosing(_steady(blocks, self._idle_s)) as steady:
            async for block in steady:
                most -= len(block)
                if most < 0:
                    raise _too_long(upload, most + len(block))
                yield block


def _too_long(upload: Upload, most: int) -> Exception:
    if upload.length_bytes is None:
        return FileTooLarge("the package has more bytes than are allowed")
    return UploadTooLong(f"upload {upload.id} may have {most:,} more bytes")


async def _steady(blocks: AsyncIterator[bytes], idle_s: float) -> AsyncGenerator[bytes, None]:
    """Pass blocks on until none has come for a while. Raises: UploadIdle."""
    while True:
        try:
            async with asyncio.timeout(idle_s):
                block = await anext(blocks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise UploadIdle(f"nothing has come for {idle_s:g} s") from None
        yield block


async def _checked(blocks: AsyncIterator[bytes], sha256: bytes) -> bytes:
    """Return all bytes, which have this checksum. Raises: UploadTooLong, ChecksumMismatch."""
    data = bytearray()
    async for block in blocks:
        data += block
        if len(data) > MAX_CHECKED_BYTES:
            raise UploadTooLong(
                f"a request with a checksum may have {MAX_CHECKED_BYTES:,} bytes",
                hint="Send smaller chunks, or none with a checksum: packages are verified whole.",
            )
    if not hmac.compare_digest(hashlib.sha256(data).digest(), sha256):
        raise ChecksumMismatch("the bytes that came have another SHA-256")
    return bytes(data)


async def _one(block: bytes) -> AsyncIterator[bytes]:
    yield block
