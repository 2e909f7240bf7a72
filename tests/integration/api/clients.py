"""Clients of the api: one for each role, and those who are nobody."""

import secrets
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import httpx

from api.app import create_app
from api.context import ApiContext
from api.device.app import create_device_app
from tensorguard.services.access import Role
from tensorguard.services.api_keys import create_api_key
from tensorguard.services.event import SYSTEM

BASE_URL = "http://127.0.0.1:8080"


def new_slug() -> str:
    """A fleet slug that no other test has."""
    return f"f-{secrets.token_hex(6)}"


class Api:
    """The application with its lifespan running; `api.get(…)` speaks as the admin."""

    def __init__(self, context: ApiContext) -> None:
        self.context = context
        self.app = create_app(context.settings, context=context)
        self.device_app = create_device_app(context.settings, context=context)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for app in (self.app, self.device_app):
            await self._stack.enter_async_context(app.router.lifespan_context(app))
        self.nobody = await self.client()
        self.admin = await self.as_role(Role.ADMIN)
        self.device = await self._stack.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(self.device_app, client=("127.0.0.1", 4711)),
                base_url="https://127.0.0.1:8443",
            )
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def client(self, **options: Any) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, client=("127.0.0.1", 4711))
        return await self._stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url=BASE_URL, **options)
        )

    async def new_key(self, role: Role) -> str:
        """A fresh API key."""
        async with self.context.sessions.begin() as session:
            made = await create_api_key(
                session, name="test", role=role, by=SYSTEM, now=self.context.clock()
            )
        return made.key

    async def as_role(self, role: Role) -> httpx.AsyncClient:
        key = await self.new_key(role)
        return await self.client(headers={"Authorization": f"Bearer {key}"})

    async def new_fleet(self, name: str = "Hospital A") -> str:
        slug = new_slug()
        made = await self.admin.post("/api/v1/fleets", json={"slug": slug, "name": name})
        assert made.status_code == 201, made.text
        return slug
