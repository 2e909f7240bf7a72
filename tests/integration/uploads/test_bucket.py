"""What only a bucket does: copies, links for devices, and a store that fails."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from api.context import ApiContext
from api.serve import serving
from tensorguard.store.bucket import BadStoreUrl, parse_store_url
from tensorguard.store.bucket_errors import translate
from tensorguard.store.ids import new_id
from tensorguard.store.package_bucket import PackageBucket
from tensorguard.store.package_store import (
    PackageStoreUnavailable,
    Place,
    StoreFull,
    UploadLost,
    store_key,
)
from tensorguard.tgsp.reader import read_header
from tests.integration.deployments.builders import Platform
from tests.integration.deployments.test_downloads import Device
from tests.integration.uploads.curl import Curl, until
from tests.integration.uploads.store import Bucket

IN_BUCKET = pytest.mark.parametrize("store", ["bucket"], indirect=True)


async def upload(platform: Platform, curl: Curl, path: Path) -> str:
    """Upload a package; return its digest."""
    content = await asyncio.to_thread(path.read_bytes)
    place = await curl.begin(len(content))
    assert (await curl.patch(place, 0, content)).status == 204
    found = await curl.verdict(place)
    assert found["state"] == "done", found
    return str(found["package_digest"])


@pytest.fixture
async def device(platform: Platform, context: ApiContext) -> AsyncIterator[Device]:
    """An agent that is to run a package in the bucket, and curl to fetch it."""
    fleet = await platform.add_fleet("f")
    agent_id = await platform.add_agent(fleet)
    platform.files = context.package_store  # type: ignore[assignment]  # the bucket this time
    path = platform.build_package()
    release = await platform.release_of(path)
    await platform.start(release, fleet)
    await platform.controller().step()
    package = (await platform.send())[agent_id].package
    assert package is not None
    async with serving(context) as listening:
        url = f"https://127.0.0.1:{listening.device.port}"
        yield Device(platform, agent_id, package.url, path.read_bytes(), url, platform.folder)


@IN_BUCKET
async def test_a_device_is_sent_to_the_bucket_for_a_minute_until_it_is_revoked(
    device: Device, moto: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await device.get()
    assert (answer.status, answer.body) == (307, b"")
    link = answer.headers["location"]
    query = parse_qs(urlsplit(link).query)
    assert link.startswith(moto)
    assert int(query["X-Amz-Expires"][0]) <= 60
    assert answer.headers["cache-control"] == "no-store"
    whole = await device.get("-L")
    assert (whole.status, whole.body) == (307, device.content)
    part = await device.get("-L", "-r", "100-199")
    assert part.body == device.content[100:200]
    await device.platform.set_status(device.agent_id, "revoked")
    assert (await device.get()).status == 403
    logged = capsys.readouterr()
    assert query["X-Amz-Signature"][0] not in logged.out + logged.err


@IN_BUCKET
async def test_a_final_object_is_written_once(
    platform: Platform, curl: Curl, bucket: Bucket
) -> None:
    path = platform.build_package()
    digest = await upload(platform, curl, path)
    key = f"{bucket.prefix}{digest[:2]}/{digest}.tgsp"
    first = bucket.client.head_object(Bucket=bucket.name, Key=key)
    await upload(platform, curl, path)
    second = bucket.client.head_object(Bucket=bucket.name, Key=key)
    assert first["LastModified"] == second["LastModified"]
    assert first["ContentType"] == "application/vnd.tensorguard.tgsp"


@IN_BUCKET
async def test_what_a_crash_has_left_under_a_final_key_is_replaced(
    platform: Platform, curl: Curl, bucket: Bucket
) -> None:
    path = platform.build_package()
    with path.open("rb") as file:
        digest = read_header(file, path.stat().st_size).digest
    key = bucket.prefix + store_key(digest)
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"half of it")
    content = path.read_bytes()
    place = await curl.begin(len(content))
    assert (await curl.patch(place, 0, content)).status == 204

    async def is_postponed() -> str | None:
        problem = (await curl.get(place))["problem"]
        return problem and str(problem["code"])

    assert await until(is_postponed) == "package-store-unavailable"
    platform.clock.advance(minutes=1)
    assert (await curl.verdict(place))["state"] == "done"
    assert bucket.read(key) == content


@IN_BUCKET
async def test_an_upload_or_a_bucket_that_is_gone_is_said(
    curl: Curl, bucket: Bucket, context: ApiContext
) -> None:
    path = await curl.begin(5000)
    (one,) = bucket.client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    bucket.client.abort_multipart_upload(
        Bucket=bucket.name, Key=one["Key"], UploadId=one["UploadId"]
    )
    answer = await curl.patch(path, 0, bytes(5000))
    assert (answer.status, answer.code) == (409, "upload-lost")
    assert (await curl.send("HEAD", path)).status == 404  # to be begun again
    bucket.client.delete_bucket(Bucket=bucket.name)
    answer = await curl.send("POST", "/api/v1/packages/uploads", "Upload-Length: 5")
    assert (answer.status, answer.code) == (503, "package-store-unavailable")
    with pytest.raises(PackageStoreUnavailable):
        await context.package_store.prepare()


async def test_a_bucket_that_does_not_answer_is_unavailable(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    store = PackageBucket(parse_store_url(bucket.url))
    with pytest.raises(PackageStoreUnavailable) as caught:
        await store.offset(Place(new_id(), "handle-that-is-a-secret"))
    assert "handle" not in caught.value.message
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        *("", "s3://", "s3://Bucket", "s3://b", "file:///tmp/x", "https://bucket/prefix"),
        *("s3://bucket/a?b=c", "s3://user:secret@bucket/a", "s3://bucket/a b"),
    ],
)
def test_a_store_that_is_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(BadStoreUrl):
        parse_store_url(url)


def test_errors_of_the_sdk_are_ours_and_quote_nothing() -> None:
    class Full(Exception):
        response: ClassVar = {"Error": {"Code": "XMinioStorageFull", "Message": "secret"}}

    assert isinstance(translate(Full("secret")), StoreFull)
    assert "secret" not in translate(ValueError("secret")).message
    assert isinstance(translate(UploadLost("x")), UploadLost)


def test_without_the_sdk_the_way_to_it_is_told() -> None:
    program = (
        "import sys; sys.modules['boto3'] = None\n"
        "from tensorguard.store.bucket import make_client\n"
        "try: make_client()\n"
        "except Exception as error: print(error.code, error.hint)\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout == "missing-extra pip install 'tensorguard-platform[aws]'\n", told.stderr
