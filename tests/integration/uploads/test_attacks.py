"""What a client may say that is not so, and what it may take that is not its own."""

import base64
import hashlib
from typing import Any

import pytest

from api.context import ApiContext
from tensorguard.services.people.access import Role
from tests.integration.deployments.builders import Platform
from tests.integration.uploads.conftest import new_key
from tests.integration.uploads.curl import OCTETS, UPLOADS, Curl, until
from tests.integration.uploads.store import Store

FILES = pytest.mark.parametrize("store", ["files"], indirect=True)


def checksum(data: bytes, algorithm: str = "sha256") -> str:
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return f"Upload-Checksum: {algorithm} {digest}"


async def test_bytes_are_taken_only_where_the_upload_ends(
    platform: Platform, curl: Curl, store: Store
) -> None:
    path = await curl.begin(3000)
    assert (await curl.patch(path, 0, bytes(1000))).status == 204
    for offset in (0, 999, 1001, 3000, 2**52):
        answer = await curl.patch(path, offset, bytes(10))
        assert (answer.status, answer.code) == (409, "upload-offset-wrong")
        assert await curl.offset(path) == 1000
    answer = await curl.patch(path, 1000, bytes(2001))
    assert (answer.status, answer.code) == (413, "upload-too-long")
    chunked = await curl.patch(path, 1000, bytes(2001), "Transfer-Encoding: chunked")
    assert (chunked.status, chunked.code) == (413, "upload-too-long")
    assert await curl.offset(path) <= 3000
    assert store.kept() == {}


@FILES
async def test_a_checksum_holds_for_a_request_whole(curl: Curl) -> None:
    data = bytes(range(250)) * 4
    path = await curl.begin(3000)
    wrong = await curl.patch(path, 0, data, checksum(data[1:]))
    assert (wrong.status, wrong.code) == (460, "checksum-mismatch")
    assert await curl.offset(path) == 0
    assert (await curl.patch(path, 0, data, checksum(data))).offset == 1000
    for header in (checksum(data, "sha1"), "Upload-Checksum: sha256 AA", "Upload-Checksum: x"):
        assert (await curl.patch(path, 1000, data, header)).status == 400
    large = await curl.begin(10 * 1024 * 1024)
    data = bytes(9 * 1024 * 1024)
    answer = await curl.patch(large, 0, data, checksum(data))
    assert (answer.status, answer.code) == (413, "upload-too-long")
    assert await curl.offset(large) == 0


@FILES
async def test_nobody_else_has_an_upload(
    platform: Platform, curl: Curl, context: ApiContext
) -> None:
    path = await curl.begin(3000)
    for role in (Role.MLOPS, Role.ADMIN):
        other = curl.with_key(await new_key(context, role))
        for method in ("HEAD", "GET", "DELETE"):
            assert (await other.send(method, path)).status == 404
        assert (await other.patch(path, 0, bytes(10))).status == 404
        assert (await other.get(UPLOADS))["items"] == []
    viewer = curl.with_key(await new_key(context, Role.VIEWER))
    assert (await viewer.send("POST", UPLOADS, "Upload-Length: 5")).status == 403
    assert (await viewer.send("HEAD", path)).status == 403
    assert (await curl.with_key("tg_nobody").send("HEAD", path)).status == 401
    assert await curl.offset(path) == 0
    assert [one["id"] for one in (await curl.get(UPLOADS))["items"]] == [path.rpartition("/")[2]]


@FILES
async def test_one_request_writes_at_a_time(curl: Curl, store: Store) -> None:
    length = 3 * 1024 * 1024
    path = await curl.begin(length)
    async with curl.half_sent(path, 0, bytes(2 * 1024 * 1024), length):
        await curl.until_offset(path, 1)
        answer = await curl.patch(path, 0, b"x")
        assert (answer.status, answer.code) == (423, "upload-busy")
        assert int(answer.headers["retry-after"]) > 0

    async def is_taken() -> bool | None:
        have = await curl.offset(path)
        return (await curl.patch(path, have, bytes(10))).status == 204 or None

    assert await until(is_taken)


@FILES
async def test_heads_that_are_not_as_tus_has_them_are_refused(curl: Curl, store: Store) -> None:
    many = "a" * 3000
    asked: list[tuple[list[str], int]] = [
        (["Upload-Length: -1"], 422),
        (["Upload-Length: 1e9"], 422),
        (["Upload-Length: 9007199254740993"], 422),
        ([], 422),
        ([f"Upload-Length: {41 * 1024 * 1024}"], 413),
        (["Upload-Length: 5", f"Upload-Metadata: name {many}"], 422),
        (["Upload-Length: 5", "Upload-Metadata: name ???"], 400),
        (["Upload-Length: 5", "Upload-Metadata: name YQ==,name YQ=="], 400),
        (["Upload-Length: 5", "Upload-Metadata: ,"], 400),
    ]
    for headers, status in asked:
        answer = await curl.send("POST", UPLOADS, *headers)
        assert (answer.status, headers) == (status, headers)
        assert answer.headers["tus-resumable"] == "1.0.0"
    for version in ("", "0.2.2"):
        answer = await curl.send("POST", UPLOADS, "Upload-Length: 5", version=version)
        assert (answer.status, answer.headers["tus-version"]) == (412, "1.0.0")
    path = await curl.begin(5)
    headers = ["Upload-Offset: 0", f"Content-Type: {OCTETS}x"]
    answer = await curl.send("PATCH", path, *headers, data=b"a")
    assert answer.status == 415
    assert store.incoming() == [path.rpartition("/")[2]]


@FILES
async def test_the_server_says_what_it_can(curl: Curl) -> None:
    answer = await curl.send("OPTIONS", UPLOADS, version="")
    assert answer.status == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert set(answer.headers["tus-extension"].split(",")) == {
        *("creation", "expiration", "termination", "checksum")
    }
    assert answer.headers["tus-max-size"] == str(40 * 1024 * 1024)


@FILES
async def test_an_upload_whose_answer_was_lost_is_opened_once(curl: Curl) -> None:
    first = await curl.begin(5000, "Idempotency-Key: same")
    assert await curl.begin(5000, "Idempotency-Key: same") == first
    assert await curl.begin(5000) != first


@FILES
async def test_a_user_has_only_so_many_open_uploads(curl: Curl, context: ApiContext) -> None:
    paths = [await curl.begin(5000) for _ in range(3)]
    answer = await curl.send("POST", UPLOADS, "Upload-Length: 5000")
    assert (answer.status, answer.code) == (429, "too-many-uploads")
    await curl.with_key(await new_key(context)).begin(5000)
    assert (await curl.send("DELETE", paths[0])).status == 204
    await curl.begin(5000)


@FILES
async def test_what_is_whole_is_neither_added_to_nor_deleted_halfway(
    platform: Platform, curl: Curl, store: Store
) -> None:
    content = platform.build_package().read_bytes()
    path = await curl.begin(len(content))
    assert (await curl.patch(path, 0, content)).status == 204
    found = await curl.verdict(path)
    answer = await curl.patch(path, len(content), b"more")
    assert (answer.status, answer.code) == (409, "upload-complete")
    assert (await curl.send("DELETE", path)).status == 204
    assert (await curl.get(f"/api/v1/packages/{found['package_digest']}"))["name"] == "model"
    assert list(store.kept().values()) == [content]


@FILES
async def test_a_full_disk_is_said_and_the_upload_goes_on_afterwards(
    platform: Platform, curl: Curl, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = platform.build_package().read_bytes()
    path = await curl.begin(len(content))

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("tensorguard.store.package_files.os.pwrite", full)
        answer = await curl.patch(path, 0, content)
        assert (answer.status, answer.code) == (507, "package-store-full")
        patched.setattr("tensorguard.store.package_files.shutil.disk_usage", lambda _: _Free())
        answer = await curl.send("POST", UPLOADS, "Upload-Length: 5000")
        assert (answer.status, answer.code) == (507, "package-store-full")
    assert await curl.offset(path) == 0
    assert (await curl.patch(path, 0, content)).status == 204
    assert (await curl.verdict(path))["state"] == "done"


class _Free:
    free = 4999
