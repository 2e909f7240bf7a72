"""Who works on an upload, and for how long: the services, without an api."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tensorguard.services.deployments.upload_errors import (
    LeaseLost,
    UploadBusy,
    UploadIdle,
    UploadNotFound,
)
from tensorguard.services.deployments.uploads import Upload
from tensorguard.store.package_store import PackageStoreUnavailable, Place
from tests.integration.deployments.builders import OPERATOR, Platform, read_file


async def stalling(first: bytes) -> AsyncIterator[bytes]:
    """A client that sends something, and then nothing for ever."""
    yield first
    await asyncio.Event().wait()


async def whole_upload(platform: Platform) -> Upload:
    """An upload that has all of its bytes, and that nobody verifies yet."""
    package = platform.build_package()
    receiver = platform.receiver()
    upload = await receiver.begin(length_bytes=package.stat().st_size, by=OPERATOR)
    await receiver.append(
        upload.id, read_file(package), offset=0, announced_bytes=None, by=OPERATOR
    )
    return await receiver.get(upload.id, by=OPERATOR)


async def test_whoever_verifies_may_die_and_another_does_it(platform: Platform) -> None:
    upload, receiver = await whole_upload(platform), platform.receiver()
    async with receiver.hold(upload.id):  # by one that will not come back
        assert await platform.verifier().step() == 0
        platform.clock.advance(seconds=16)
        await platform.verifier().step()
    assert (await receiver.get(upload.id, by=OPERATOR)).state == "done"
    assert await platform.verifier().step() == 0


async def test_a_client_that_stalls_is_let_go_and_what_it_sent_is_kept(platform: Platform) -> None:
    receiver = platform.receiver(idle_s=0.01)
    upload = await receiver.begin(length_bytes=5000, by=OPERATOR)
    with pytest.raises(UploadIdle):
        await receiver.append(
            upload.id, stalling(bytes(1000)), offset=0, announced_bytes=5000, by=OPERATOR
        )
    assert await receiver.offset(upload) == 1000


async def test_a_deleted_upload_ends_the_request_that_writes_to_it(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tensorguard.services.deployments.upload_lease.LEASE", timedelta(seconds=0.3)
    )
    receiver = platform.receiver()
    upload = await receiver.begin(length_bytes=5000, by=OPERATOR)
    begun = asyncio.Event()

    async def blocks() -> AsyncIterator[bytes]:
        begun.set()
        async for block in stalling(bytes(1000)):
            yield block

    writing = asyncio.create_task(
        receiver.append(upload.id, blocks(), offset=0, announced_bytes=5000, by=OPERATOR)
    )
    await begun.wait()
    with pytest.raises(UploadBusy):
        await receiver.append(upload.id, stalling(b""), offset=0, announced_bytes=5000, by=OPERATOR)
    await receiver.drop(upload.id, by=OPERATOR)
    with pytest.raises(LeaseLost):
        await writing
    with pytest.raises(UploadNotFound):
        await receiver.get(upload.id, by=OPERATOR)
    await platform.verifier().step()
    assert list((platform.folder / "packages" / "incoming").iterdir()) == []


async def test_a_verification_that_cannot_be_done_now_is_done_later(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, receiver = await whole_upload(platform), platform.receiver()

    async def fails(place: Place, length_bytes: int) -> None:
        raise PackageStoreUnavailable("the store is on fire")

    with monkeypatch.context() as patched:
        patched.setattr(platform.files, "finish", fails)
        await platform.verifier().step()
        waiting = await receiver.get(upload.id, by=OPERATOR)
        assert (waiting.state, waiting.code) == ("verifying", "package-store-unavailable")
        assert await platform.verifier().step() == 0  # not at once
    platform.clock.advance(seconds=5)
    await platform.verifier().step()
    done = await receiver.get(upload.id, by=OPERATOR)
    assert (done.state, done.code) == ("done", None)
