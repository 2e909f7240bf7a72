"""The package store in S3, or in what speaks like it: api hosts share it, devices fetch from it.

An upload is a multipart upload to `incoming/<id>`, in parts of one size. What a request leaves over
lies beside it, in an object named after the part that it will begin, so that it counts for nothing
once that part is there. A verified file is copied by the store itself to `<aa>/<digest>.tgsp`, only
if there is none (If-None-Match).
https://docs.aws.amazon.com/AmazonS3/latest/API/
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, BinaryIO, Final, cast
from uuid import UUID

from tensorguard.store.bucket import Bucket, BucketName, make_client
from tensorguard.store.bucket_errors import Missing, Taken
from tensorguard.store.bucket_reader import ObjectReader
from tensorguard.store.package_store import (
    INCOMING,
    IncomingFile,
    Link,
    PackageStoreUnavailable,
    Place,
    UploadLost,
    store_key,
)

PART_BYTES: Final = 8 * 1024 * 1024
LINK_LIFE_S: Final = 60
MEDIA_TYPE: Final = "application/vnd.tensorguard.tgsp"
_MOST_PARTS: Final = 10_000
_COPY_BYTES: Final = 512 * 1024 * 1024
_COPIES_AT_ONCE: Final = 4


class PackageBucket:
    """Objects below the prefix of one bucket. Raises PackageStoreUnavailable from every method."""

    max_bytes = PART_BYTES * _MOST_PARTS

    def __init__(self, name: BucketName, *, make: Callable[[], Any] = make_client) -> None:
        """Raises: MissingLibrary, PackageStoreUnavailable."""
        self._bucket = Bucket(name.bucket, make=make)
        self._prefix = name.prefix

    async def prepare(self) -> None:
        """Make sure that the bucket is there, and is ours to use."""
        try:
            await self._bucket.call("head_bucket")
        except Missing:
            raise PackageStoreUnavailable(f"there is no bucket {self._bucket.name}") from None

    async def begin(self, upload_id: UUID, length_bytes: int | None) -> str:
        """Begin a multipart upload; return its UploadId."""
        answer = await self._bucket.call("create_multipart_upload", Key=self._key_of(upload_id))
        return str(answer["UploadId"])

    async def offset(self, place: Place) -> int:
        """Return how much there is in parts, and in what the last request left over."""
        parts = await self._parts(place)
        have = sum(int(part["Size"]) for part in parts)
        if have % PART_BYTES == 0:
            have += await self._left_over(place, len(parts) + 1)
        return have

    async def append(
        self, place: Place, blocks: AsyncIterator[bytes], *, offset: int, length_bytes: int | None
    ) -> int:
        """Upload parts as they fill; what the end leaves over is put beside them."""
        number, have = offset // PART_BYTES + 1, offset % PART_BYTES
        buffer = bytearray(await self._read_left_over(place, number) if have else b"")
        if len(buffer) != have:
            raise UploadLost(f"the last part of upload {place.upload_id} is gone")
        async for block in blocks:
            buffer += block
            offset += len(block)
            while len(buffer) >= PART_BYTES:
                await self._put_part(place, number, bytes(buffer[:PART_BYTES]))
                del buffer[:PART_BYTES]
                if have:
                    await self._bucket.call("delete_object", Key=self._left_over_key(place, number))
                number, have = number + 1, 0
        if buffer and length_bytes in (None, offset):
            await self._put_part(place, number, bytes(buffer))
        elif buffer:
            key = self._left_over_key(place, number)
            await self._bucket.call("put_object", Key=key, Body=bytes(buffer))
        return offset

    async def finish(self, place: Place, length_bytes: int) -> IncomingFile:
        """Complete the multipart upload, unless that was done before. Raises: UploadLost."""
        key = self._key_of(place.upload_id)
        with contextlib.suppress(UploadLost):  # completed before: told by the object
            await self._complete(place, key, length_bytes)
        try:
            head = await self._bucket.call("head_object", Key=key)
        except Missing:
            raise UploadLost(f"upload {place.upload_id} is not in the bucket") from None
        if head["ContentLength"] != length_bytes:
            raise UploadLost(f"upload {place.upload_id} has lost bytes")
        version = str(head["ETag"])

        def open_object() -> BinaryIO:
            reader = ObjectReader(self._bucket, key, version, length_bytes)
            return cast(BinaryIO, reader)  # a raw file reads, too

        return IncomingFile(place, length_bytes, version, open_object)

    async def stage(self, incoming: IncomingFile, digest: bytes, sha256: bytes) -> None:
        """Copy the verified object to its final key, if there is none."""
        key = self._prefix + store_key(digest)
        if await self._find_sha256(key) is not None:
            return
        upload = await self._bucket.call(
            "create_multipart_upload",
            Key=key,
            ContentType=MEDIA_TYPE,
            Metadata={"sha256": sha256.hex()},
        )
        whole = False
        try:
            parts = await self._copy_parts(incoming, key, upload["UploadId"])
            await self._bucket.call(
                "complete_multipart_upload",
                Key=key,
                UploadId=upload["UploadId"],
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
            )
            whole = True
        except Taken:
            pass  # another host was faster; `keep` looks at what it has put there
        finally:
            if not whole:
                await self._abort(key, upload["UploadId"])

    async def keep(self, incoming: IncomingFile, digest: bytes, sha256: bytes) -> str:
        """Make sure that these bytes are under the final key; others there were left by a crash."""
        key = store_key(digest)
        held = await self._find_sha256(self._prefix + key)
        if held != sha256.hex():
            if held is not None:
                await self._bucket.call("delete_object", Key=self._prefix + key)
            raise PackageStoreUnavailable("another file lay under the package's name")
        return key

    async def discard(self, place: Place) -> None:
        """Abort the upload, and delete all that lies under its name."""
        key = self._key_of(place.upload_id)
        listed = await self._bucket.call("list_multipart_uploads", Prefix=key)
        for upload in listed.get("Uploads", []):
            await self._abort(upload["Key"], upload["UploadId"])
        objects = await self._bucket.call("list_objects_v2", Prefix=key)  # itself and a left-over
        for found in objects.get("Contents", []):
            await self._bucket.call("delete_object", Key=found["Key"])

    async def list_strays(self) -> list[str]:
        """None: the bucket's lifecycle rule removes what a restored database does not know."""
        return []

    async def remove_stray(self, name: str) -> None:
        """Nothing: none is listed."""

    async def find(self, key: str, *, head: bool = False) -> Link:
        """Return a presigned URL. That the object is there, and whole, the device finds out."""
        operation = "head_object" if head else "get_object"
        url = await self._bucket.run(
            lambda: self._bucket.client.generate_presigned_url(
                operation,
                Params={"Bucket": self._bucket.name, "Key": self._prefix + key},
                ExpiresIn=LINK_LIFE_S,
            )
        )
        return Link(str(url))

    async def close(self) -> None:
        """Let go of connections and threads."""
        self._bucket.close()

    async def _parts(self, place: Place) -> list[dict[str, Any]]:
        """Return the parts that are there without a gap. Raises: UploadLost."""
        found: list[dict[str, Any]] = []
        marker = 0
        while True:
            try:
                page = await self._bucket.call(
                    "list_parts",
                    Key=self._key_of(place.upload_id),
                    UploadId=place.handle or "none",
                    PartNumberMarker=marker,
                )
            except Missing:
                raise UploadLost(f"upload {place.upload_id} is not in the bucket") from None
            for part in page.get("Parts", []):
                if part["PartNumber"] != len(found) + 1:
                    return found
                found.append(part)
            if not page.get("IsTruncated") or len(found) >= _MOST_PARTS:
                return found
            marker = page["NextPartNumberMarker"]

    async def _complete(self, place: Place, key: str, length_bytes: int) -> None:
        """Make an object of the parts. Raises: UploadLost."""
        parts = await self._parts(place)
        if not length_bytes:  # S3 makes no object of no parts
            await self._bucket.call("put_object", Key=key, Body=b"")
            return
        try:
            await self._bucket.call(
                "complete_multipart_upload",
                Key=key,
                UploadId=place.handle or "none",
                MultipartUpload={"Parts": [_named(part) for part in parts]},
            )
        except Missing:
            raise UploadLost(f"upload {place.upload_id} is not in the bucket") from None

    async def _copy_parts(
        self, incoming: IncomingFile, key: str, upload_id: str
    ) -> list[dict[str, Any]]:
        """Have the store copy the very bytes that were verified, several ranges at a time."""
        room = asyncio.Semaphore(_COPIES_AT_ONCE)
        source = {"Bucket": self._bucket.name, "Key": self._key_of(incoming.place.upload_id)}

        async def copy(number: int, first: int) -> dict[str, Any]:
            last = min(first + _COPY_BYTES, incoming.size_bytes) - 1
            async with room:
                answer = await self._bucket.call(
                    "upload_part_copy",
                    Key=key,
                    UploadId=upload_id,
                    PartNumber=number,
                    CopySource=source,
                    CopySourceIfMatch=incoming.version,
                    CopySourceRange=f"bytes={first}-{last}",
                )
            return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

        firsts = range(0, incoming.size_bytes, _COPY_BYTES)
        try:
            async with asyncio.TaskGroup() as tasks:
                copies = [
                    tasks.create_task(copy(number, first)) for number, first in enumerate(firsts, 1)
                ]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [one.result() for one in copies]

    async def _find_sha256(self, key: str) -> str | None:
        """Return the SHA-256 that an object was stored with; None if there is no object."""
        try:
            head = await self._bucket.call("head_object", Key=key)
        except Missing:
            return None
        return str(head["Metadata"].get("sha256", ""))

    async def _put_part(self, place: Place, number: int, body: bytes) -> None:
        try:
            await self._bucket.call(
                "upload_part",
                Key=self._key_of(place.upload_id),
                UploadId=place.handle or "none",
                PartNumber=number,
                Body=body,
            )
        except Missing:
            raise UploadLost(f"upload {place.upload_id} is not in the bucket") from None

    async def _left_over(self, place: Place, number: int) -> int:
        try:
            head = await self._bucket.call("head_object", Key=self._left_over_key(place, number))
        except Missing:
            return 0
        return int(head["ContentLength"])

    async def _read_left_over(self, place: Place, number: int) -> bytes:
        key = self._left_over_key(place, number)

        def read() -> bytes:
            body = self._bucket.client.get_object(Bucket=self._bucket.name, Key=key)["Body"]
            with body:
                return bytes(body.read(PART_BYTES))

        try:
            return await self._bucket.run(read)
        except Missing:
            return b""

    async def _abort(self, key: str, upload_id: str) -> None:
        with contextlib.suppress(Missing):  # it has ended
            await self._bucket.call("abort_multipart_upload", Key=key, UploadId=upload_id)

    def _key_of(self, upload_id: UUID) -> str:
        return f"{self._prefix}{INCOMING}/{upload_id}"

    def _left_over_key(self, place: Place, number: int) -> str:
        return f"{self._key_of(place.upload_id)}.part-{number}"


def _named(part: dict[str, Any]) -> dict[str, Any]:
    return {"PartNumber": part["PartNumber"], "ETag": part["ETag"]}
