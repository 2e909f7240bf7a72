"""Clients of the api: one for each role, and those who are nobody."""

import json
import secrets
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import httpx
import sqlalchemy as sa
from fastapi import FastAPI

from api.app import create_app
from api.context import ApiContext
from api.device.app import create_device_app
from api.settings import ApiSettings
from tensorguard.services.evidence.event import SYSTEM
from tensorguard.services.people.access import Role
from tensorguard.services.people.api_keys import create_api_key
from tensorguard.store import tables

BASE_URL = "http://127.0.0.1:8080"


def new_slug() -> str:
    """A fleet slug that no other test has."""
    return f"f-{secrets.token_hex(6)}"


Apps = tuple[FastAPI, FastAPI]

# FastAPI works each route out at an application's first request: longer than most tests take.
_IDLE: dict[ApiSettings, Apps] = {}
_MOST_IDLE = 4


def _take_apps(settings: ApiSettings) -> Apps:
    """The people's and the devices' application, which no other test has now."""
    return _IDLE.pop(settings, None) or (create_app(settings), create_device_app(settings))


def _give_back(settings: ApiSettings, apps: Apps) -> None:
    _IDLE[settings] = apps
    if len(_IDLE) > _MOST_IDLE:
        del _IDLE[next(iter(_IDLE))]


class Api:
    """The application as it serves; `api.get(…)` speaks as the admin."""

    def __init__(self, context: ApiContext) -> None:
        self.context = context
        self.app, self.device_app = apps = _take_apps(context.settings)
        for app in apps:
            app.state.context = context
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
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
        _give_back(self.context.settings, (self.app, self.device_app))

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

    async def all_of(self, path: str) -> list[dict[str, Any]]:
        """Every item of a list, page after page: tests share a platform, and make many."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = (await self.admin.get(path, params={"limit": 500, **cursor})).json()
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            cursor = {"cursor": page["next_cursor"]}

    async def new_fleet(self, name: str = "Hospital A") -> str:
        slug = new_slug()
        made = await self.admin.post("/api/v1/fleets", json={"slug": slug, "name": name})
        assert made.status_code == 201, made.text
        return slug

    async def events(
        self, type: str, *, actor: str | None = None, subject: str | None = None
    ) -> list[dict[str, Any]]:
        """The details of the ledger's events of a type, the oldest first."""
        table = tables.ledger_events
        query = sa.select(table.c.entry).where(table.c.type == type).order_by(table.c.id)
        if actor is not None:
            query = query.where(table.c.actor_id == actor)
        if subject is not None:
            query = query.where(table.c.subject_id == subject)
        async with self.context.sessions() as session:
            entries = (await session.execute(query)).scalars().all()
        return [json.loads(entry)["details"] for entry in entries]

    async def dump(self, *names: str) -> str:
        """Everything that is stored in these tables, as text; bytes as they are."""
        rows: list[Any] = []
        async with self.context.sessions() as session:
            for name in names:
                rows += await session.execute(sa.select(tables.metadata.tables[name]))
        return "\n".join(str(tuple(row)) for row in rows)
