"""Uploads that go on where they were cut, into either store, by a client that is not ours."""

import hashlib
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from api.context import ApiContext
from api.settings import ApiSettings
from tensorguard.store import tables
from tests.integration.api.process import running_api
from tests.integration.deployments.builders import Platform
from tests.integration.uploads.conftest import new_key
from tests.integration.uploads.curl import Curl, until
from tests.integration.uploads.store import Bucket, Files, Store
from tests.patience import PATIENCE_S

MIB = 1024 * 1024
PART = 8 * MIB


async def assert_is_package(curl: Curl, store: Store, path: str, content: bytes) -> None:
    """An upload has become a package, and nothing else of it is left."""
    found = await curl.verdict(path)
    assert (found["state"], found["problem"]) == ("done", None)
    digest = found["package_digest"]
    assert store.kept() == {f"{digest[:2]}/{digest}.tgsp": content}
    await until_nothing_is_incoming(store)
    shown = await curl.get(f"/api/v1/packages/{digest}")
    assert shown["file_sha256"] == hashlib.sha256(content).hexdigest()


async def until_nothing_is_incoming(store: Store) -> None:
    """The verdict is told first, then what has come is removed."""

    async def is_empty() -> bool | None:
        return store.incoming() == [] or None

    await until(is_empty)


async def test_a_package_comes_in_as_many_requests_as_it_takes(
    platform: Platform, curl: Curl, store: Store
) -> None:
    content = platform.build_package(content=os.urandom(20 * MIB)).read_bytes()
    path = await curl.begin(len(content), "Upload-Metadata: filename bW9kZWwudGdzcA==,private")
    sent = 0
    # Over, beneath and exactly on the ends of the store's parts; one of nothing; the rest.
    for size in (10 * MIB, 1, MIB, 0, 2 * PART - 11 * MIB - 1, len(content)):
        assert (await curl.get(path))["state"] == "receiving"
        answer = await curl.patch(path, sent, content[sent : sent + size])
        sent = min(sent + size, len(content))
        assert (answer.status, answer.offset) == (204, sent)
        assert await curl.offset(path) == sent
    head = await curl.send("HEAD", path)
    assert head.headers["upload-length"] == str(len(content))
    assert head.headers["upload-metadata"] == "filename bW9kZWwudGdzcA==,private"
    await assert_is_package(curl, store, path, content)
    assert (await curl.get(path))["filename"] == "model.tgsp"


async def test_a_request_that_is_cut_loses_at_most_a_part(
    platform: Platform, curl: Curl, store: Store
) -> None:
    content = platform.build_package(content=os.urandom(12 * MIB)).read_bytes()
    path = await curl.begin(len(content))
    async with curl.half_sent(path, 0, content[: 9 * MIB], len(content)):
        await curl.until_offset(path, PART)

    async def rest_is_taken() -> int | None:
        have = await curl.offset(path)
        taken = (await curl.patch(path, have, content[have:])).status == 204
        return have if taken else None  # what was cut is still being written

    have = await until(rest_is_taken)
    assert have == PART if isinstance(store, Bucket) else PART <= have <= 9 * MIB
    await assert_is_package(curl, store, path, content)


@pytest.mark.parametrize("store", ["files"], indirect=True)
async def test_the_same_package_again_is_the_same(
    platform: Platform, curl: Curl, store: Store
) -> None:
    content = platform.build_package().read_bytes()
    for _ in range(2):
        path = await curl.begin(len(content))
        assert (await curl.patch(path, 0, content)).status == 204
        await assert_is_package(curl, store, path, content)
    assert await platform.events("package") == ["package.uploaded"]


async def test_a_refused_package_says_why_and_leaves_nothing(
    platform: Platform, curl: Curl, store: Store
) -> None:
    good = platform.build_package().read_bytes()
    for content, code in (
        (good[:-1] + bytes([good[-1] ^ 1]), "ciphertext-mismatch"),
        (good[:-1], "truncated"),
        (b"", "not-a-package"),
    ):
        path = await curl.begin(len(content))
        if content:
            assert (await curl.patch(path, 0, content)).status == 204
        found = await curl.verdict(path)
        assert (found["state"], found["problem"]["code"]) == ("refused", code)
        assert found["problem"]["detail"]
        assert found["problem"]["hint"]
        assert await curl.offset(path) == len(content)
    assert await platform.events("package") == ["package.refused"] * 3
    assert store.kept() == {}
    await until_nothing_is_incoming(store)


async def test_an_upload_is_gone_a_day_after_its_last_byte_or_when_it_is_deleted(
    platform: Platform, curl: Curl, store: Store
) -> None:
    deleted, left = await curl.begin(5000), await curl.begin(5000)
    assert (await curl.patch(deleted, 0, bytes(1000))).status == 204
    assert (await curl.send("DELETE", deleted)).status == 204
    platform.clock.advance(hours=23)
    assert (await curl.patch(left, 0, bytes(1000))).status == 204
    assert await curl.offset(left) == 1000
    platform.clock.advance(hours=24)
    for path in (deleted, left):
        assert (await curl.send("HEAD", path)).status == 404
        assert (await curl.patch(path, 1000, bytes(4000))).status == 404
    await until_nothing_is_incoming(store)


@pytest.mark.parametrize("store", ["files"], indirect=True)
async def test_an_api_that_is_killed_in_mid_upload_loses_nothing_that_it_has_written(
    platform: Platform, context: ApiContext, files: Files, tmp_path: Path
) -> None:
    platform.clock.now = datetime.now(UTC)  # as the process has it
    settings: ApiSettings = context.settings
    content = platform.build_package(
        content=os.urandom(3 * MIB), not_before=0, created=0
    ).read_bytes()
    key = await new_key(context)
    with running_api(settings, tmp_path / "first.log") as (process, url):
        curl = Curl(url, key, tmp_path)
        path = await curl.begin(len(content))
        async with curl.half_sent(path, 0, content[: 2 * MIB], len(content)):
            sent = await curl.until_offset(path, MIB)
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)
    async with platform.sessions.begin() as session:  # as if its seconds were over
        await session.execute(sa.update(tables.package_uploads).values(lease_until=None))
    with running_api(settings, tmp_path / "second.log") as (_, url):
        curl = Curl(url, key, tmp_path)
        have = await curl.offset(path)
        assert sent <= have <= 2 * MIB
        assert (await curl.patch(path, have, content[have:])).status == 204
        await assert_is_package(curl, files, path, content)
