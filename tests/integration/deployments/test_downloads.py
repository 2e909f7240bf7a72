"""Downloads over the devices' listener, with a client that is not ours: curl."""

import asyncio
import email
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from api.context import ApiContext
from api.serve import serving
from tests.integration.deployments.builders import Platform
from tests.patience import PATIENCE_S


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Device:
    """An agent with a link, and curl to follow it."""

    platform: Platform
    agent_id: UUID
    link: str
    content: bytes
    base_url: str
    folder: Path

    async def get(self, *options: str, link: str | None = None) -> Answer:
        body = self.folder / "body"
        body.write_bytes(b"")
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sk", "--noproxy", "*", "-D", "-", "-o", str(body), *options),
            self.base_url + (self.link if link is None else link),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        head, _, lines = out.decode().replace("\r\n", "\n").partition("\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines.splitlines() if line)
        }
        return Answer(int(head.split()[1]), headers, body.read_bytes())


@pytest.fixture
async def device(platform: Platform, context: ApiContext) -> AsyncIterator[Device]:
    fleet = await platform.add_fleet("f")
    agent_id = await platform.add_agent(fleet)
    release = await platform.release()
    await platform.start(release, fleet)
    await platform.controller().step()
    package = (await platform.send())[agent_id].package
    assert package is not None
    (stored,) = (platform.folder / "packages").glob("??/*.tgsp")
    content = stored.read_bytes()
    assert package.size == len(content)
    async with serving(context) as listening:
        url = f"https://127.0.0.1:{listening.device.port}"
        yield Device(platform, agent_id, package.url, content, url, platform.folder)


async def test_a_package_comes_whole_with_its_hash_as_etag(device: Device) -> None:
    answer = await device.get()
    assert (answer.status, answer.body) == (200, device.content)
    assert answer.headers["etag"] == f'"{hashlib.sha256(device.content).hexdigest()}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-length"] == str(len(device.content))
    head = await device.get("-I")
    assert head.status == 200
    assert head.headers["content-length"] == str(len(device.content))


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("0-9", 0, 10), ("100-199", 100, 200), ("50000-", 50_000, None), ("-7", -7, None)],
)
async def test_a_range_comes_alone(device: Device, asked: str, start: int, end: int | None) -> None:
    answer = await device.get("-r", asked)
    total = len(device.content)
    wanted = device.content[start:end]
    first = start if start >= 0 else total + start
    assert (answer.status, answer.body) == (206, wanted)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(wanted) - 1}/{total}"


async def test_several_ranges_come_in_parts(device: Device) -> None:
    answer = await device.get("-r", "0-3,10-19")
    assert answer.status == 206
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    parts = email.message_from_bytes(head + answer.body).get_payload()
    assert isinstance(parts, list)
    found = [part.get_payload(decode=True) for part in parts]  # type: ignore[union-attr]
    assert found == [device.content[:4], device.content[10:20]]


async def test_a_range_beyond_the_end_is_refused(device: Device) -> None:
    answer = await device.get("-r", f"{len(device.content)}-")
    assert answer.status == 416
    assert answer.headers["content-range"] == f"bytes */{len(device.content)}"


async def test_a_resumed_download_continues_only_the_same_file(device: Device) -> None:
    etag = (await device.get("-I")).headers["etag"]
    same = await device.get("-r", "10-", "-H", f"If-Range: {etag}")
    assert (same.status, same.body) == (206, device.content[10:])
    other = await device.get("-r", "10-", "-H", 'If-Range: "another"')
    assert (other.status, other.body) == (200, device.content)


def changed(link: str, **values: str) -> str:
    """The same link with other values in its query."""
    parts = urlsplit(link)
    query = {name: found[0] for name, found in parse_qs(parts.query).items()} | values
    return f"{parts.path}?" + "&".join(f"{name}={value}" for name, value in query.items())


async def test_a_link_serves_only_what_it_was_signed_for(device: Device) -> None:
    other = await device.platform.add_agent("f")
    query = parse_qs(urlsplit(device.link).query)
    sig, exp = query["sig"][0], query["exp"][0]
    flipped = ("A" if sig[0] != "A" else "B") + sig[1:]
    for link in (
        changed(device.link, sig=flipped),
        changed(device.link, exp=str(int(exp) + 1)),
        changed(device.link, agent=str(other)),
        device.link.replace(urlsplit(device.link).path[-64:], "0" * 64),
    ):
        answer = await device.get(link=link)
        assert answer.status == 403, link
        assert b"download-refused" in answer.body
        assert sig.encode() not in answer.body
    bad = (changed(device.link, sig="x"), changed(device.link, exp="-1"))
    for link in (urlsplit(device.link).path, *bad):
        assert (await device.get(link=link)).status == 422


async def test_a_link_ends(device: Device) -> None:
    device.platform.clock.advance(hours=23, minutes=59)
    assert (await device.get()).status == 200
    device.platform.clock.advance(minutes=1)
    answer = await device.get()
    assert answer.status == 403
    assert b"download-expired" in answer.body


async def test_a_revoked_agent_s_link_ends_at_once(device: Device) -> None:
    assert (await device.get("-r", "0-9")).status == 206
    await device.platform.set_status(device.agent_id, "revoked")
    assert (await device.get("-r", "10-19")).status == 403


async def test_a_link_ends_when_the_agent_is_to_run_something_else(device: Device) -> None:
    device.platform.clock.advance(seconds=1)
    await device.platform.start(await device.platform.release(), "f")
    await device.platform.controller().step()
    assert (await device.get()).status == 403


async def test_a_missing_file_is_the_platform_s_fault_and_says_so(device: Device) -> None:
    (stored,) = (device.folder / "packages").glob("??/*.tgsp")
    stored.unlink()
    answer = await device.get()
    assert answer.status == 503
    assert b"package-file-missing" in answer.body


async def test_a_fleet_downloads_only_so_much_at_once(device: Device, context: ApiContext) -> None:
    with context.downloads.one("f"):
        answer = await device.get()
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
    assert (await device.get()).status == 200


async def test_the_query_string_is_nowhere_in_the_log(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    await device.get()
    await device.get(link=changed(device.link, exp="1"))
    logged = capsys.readouterr()
    sig = parse_qs(urlsplit(device.link).query)["sig"][0]
    assert "/device/v1/packages/{digest}" in logged.out
    assert sig not in logged.out + logged.err
