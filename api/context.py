"""What the requests of one process share: made once at the start, handed to both listeners."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import FastAPI

from api.settings import ApiSettings
from api.tally import Tally
from tensorguard.store.engine import SessionMaker, check_schema, create_engine, session_maker

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The system clock, aware UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class ApiContext:
    """The process's settings, database, clock and counters."""

    settings: ApiSettings
    sessions: SessionMaker
    clock: Clock
    denials: Tally


@asynccontextmanager
async def open_context(
    settings: ApiSettings, *, clock: Clock = utc_now
) -> AsyncIterator[ApiContext]:
    """Connect to the database and check its schema; close everything at the end.

    Raises: DatabaseUnreachable, SchemaOutdated, EngineMismatch.
    """
    engine = create_engine(
        settings.database_url.get_secret_value(),
        service="api",
        pool_size=settings.database_connections,
    )
    try:
        await check_schema(engine)
        sessions = session_maker(engine)
        denials = Tally(sessions, clock)
        stop = asyncio.Event()
        counting = asyncio.create_task(denials.run(stop), name="denials")
        try:
            yield ApiContext(settings=settings, sessions=sessions, clock=clock, denials=denials)
        finally:
            stop.set()
            await counting
    finally:
        await engine.dispose()


def context_of(app: FastAPI) -> ApiContext:
    """Return the context that the application's lifespan has set."""
    context = app.state.context
    assert isinstance(context, ApiContext)
    return context
