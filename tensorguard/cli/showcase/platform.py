"""The platform as its users see it: the REST API, with an API key."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from tensorguard.cli.showcase.errors import DemoFailed

Json = dict[str, Any]
_TIMEOUT = httpx.Timeout(30.0, read=600.0)


class Api:
    """A client of one platform; `say` tells whoever watches what it is about to do."""

    def __init__(self, url: str, api_key: str, say: Callable[[str], None]) -> None:
        self.url = url
        self.api_key = api_key
        self.say = say
        self._http = httpx.AsyncClient(
            base_url=f"{url}/api/v1/",
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=_TIMEOUT,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, path: str, **query: Any) -> Json:
        """Read one resource or page. Raises: DemoFailed."""
        return _body(await self._send("GET", path, params=query))

    async def post(self, path: str, body: Json) -> Json:
        """Make something. Raises: DemoFailed."""
        return _body(await self._send("POST", path, json=body))

    async def download(self, path: str) -> bytes:
        """Read something that is not JSON. Raises: DemoFailed."""
        return (await self._send("GET", path)).content

    async def upload(self, file: Path) -> Json:
        """Upload a package. Raises: DemoFailed."""
        headers = {"Content-Type": "application/vnd.tensorguard.tgsp"}
        content = await asyncio.to_thread(file.read_bytes)
        return _body(await self._send("POST", "packages", content=content, headers=headers))

    async def pages(self, path: str, query: Mapping[str, Any]) -> AsyncIterator[Json]:
        """Yield every item of a list. Raises: DemoFailed."""
        cursor: str | None = None
        while True:
            page = await self.get(path, **query, **({"cursor": cursor} if cursor else {}))
            for item in page["items"]:
                yield item
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def find(self, path: str, query: Mapping[str, Any], **wanted: Any) -> Json | None:
        """Return the first item of a list with these values, or None. Raises: DemoFailed."""
        async for item in self.pages(path, query):
            if all(item[name] == value for name, value in wanted.items()):
                return item
        return None

    async def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            raise DemoFailed(f"{self.url} does not answer: {type(error).__name__}") from error
        if not answer.is_success:
            raise _refused(answer, f"{method} {path}")
        return answer


def _body(answer: httpx.Response) -> Json:
    body: Json = answer.json()
    return body


def _refused(answer: httpx.Response, what: str) -> DemoFailed:
    try:
        problem = answer.json()
        return DemoFailed(f"{what}: {problem['detail']}", hint=problem["hint"])
    except (ValueError, LookupError):
        return DemoFailed(f"{what}: HTTP {answer.status_code}")
