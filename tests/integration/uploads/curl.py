"""A tus client that is not ours: curl, and a socket for what curl is too polite to do."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.patience import PATIENCE_S

UPLOADS = "/api/v1/packages/uploads"
OCTETS = "application/offset+octet-stream"


T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T | None]]) -> T:
    """What a condition gives, once it gives something."""
    async with asyncio.timeout(PATIENCE_S):
        while (found := await condition()) is None:  # noqa: ASYNC110  only the server knows
            await asyncio.sleep(0.05)
    return found


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])

    @property
    def offset(self) -> int:
        return int(self.headers["upload-offset"])


@dataclass
class Curl:
    """Somebody with an API key."""

    url: str
    key: str
    folder: Path

    def with_key(self, key: str) -> "Curl":
        return replace(self, key=key)

    async def send(
        self,
        method: str,
        path: str,
        *headers: str,
        data: bytes | None = None,
        version: str = "1.0.0",
    ) -> Answer:
        body, sent = self.folder / "answer", self.folder / "sent"
        body.write_bytes(b"")
        options = ["-s", "--noproxy", "*", "-D", "-", "-o", str(body), "-H", "Expect:"]
        options += ["-I"] if method == "HEAD" else ["-X", method]
        if version:
            options += ["-H", f"Tus-Resumable: {version}"]
        for header in (f"Authorization: Bearer {self.key}", *headers):
            options += ["-H", header]
        if data is not None:
            sent.write_bytes(data)
            options += ["--data-binary", f"@{sent}"]
        process = await asyncio.create_subprocess_exec(
            "curl", *options, self.url + path, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        head, _, lines = out.decode().replace("\r\n", "\n").partition("\n")
        pairs = (line.partition(":") for line in lines.splitlines() if line)
        found = {name.lower(): value.strip() for name, _, value in pairs}
        return Answer(int(head.split()[1]), found, body.read_bytes())

    async def begin(self, length: int, *headers: str) -> str:
        """Open an upload; return its path."""
        answer = await self.send("POST", UPLOADS, f"Upload-Length: {length}", *headers)
        assert answer.status == 201, answer
        assert answer.headers["tus-resumable"] == "1.0.0"
        return answer.headers["location"]

    async def patch(self, path: str, offset: int, data: bytes, *headers: str) -> Answer:
        named = (f"Upload-Offset: {offset}", f"Content-Type: {OCTETS}", *headers)
        return await self.send("PATCH", path, *named, data=data)

    async def offset(self, path: str) -> int:
        answer = await self.send("HEAD", path)
        assert answer.status == 200, answer
        assert answer.headers["cache-control"] == "no-store"
        return answer.offset

    async def get(self, path: str) -> dict[str, Any]:
        answer = await self.send("GET", path, version="")
        assert answer.status == 200, answer
        found: dict[str, Any] = json.loads(answer.body)
        return found

    async def verdict(self, path: str) -> dict[str, Any]:
        """What became of an upload that is whole."""

        async def is_over() -> dict[str, Any] | None:
            found = await self.get(path)
            return None if found["state"] == "verifying" else found

        return await until(is_over)

    async def until_offset(self, path: str, least: int) -> int:
        """The offset, once it is at least this."""

        async def is_there() -> int | None:
            offset = await self.offset(path)
            return offset if offset >= least else None

        return await until(is_there)

    @asynccontextmanager
    async def half_sent(
        self, path: str, offset: int, data: bytes, announced: int
    ) -> AsyncIterator[asyncio.StreamWriter]:
        """A request that says more than it sends; it is cut when the block ends."""
        where = urlsplit(self.url)
        _, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(
            f"PATCH {path} HTTP/1.1\r\nHost: {where.netloc}\r\nTus-Resumable: 1.0.0\r\n"
            f"Authorization: Bearer {self.key}\r\nUpload-Offset: {offset}\r\n"
            f"Content-Type: {OCTETS}\r\nContent-Length: {announced}\r\n\r\n".encode()
        )
        try:
            writer.write(data)
            await writer.drain()
            yield writer
        finally:
            writer.transport.abort()
