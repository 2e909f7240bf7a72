"""Connections to the database: one engine a process, one session a unit of work."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from tensorguard.store.errors import (
    DatabaseFull,
    DatabaseUnreachable,
    PartitionMissing,
    SchemaOutdated,
    StoreError,
)
from tensorguard.store.migrate import check_engine, head_revision
from tensorguard.store.url import driver_url, libpq_url

SessionMaker = async_sessionmaker[AsyncSession]


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()


def create_engine(url: str, *, service: str, pool_size: int = 5) -> AsyncEngine:
    """Return an engine for `url`; at most `pool_size` connections, each named after the service."""
    return create_async_engine(
        driver_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        hide_parameters=True,  # they are what people and devices said: not for logs
        json_serializer=_dumps,
        json_deserializer=orjson.loads,
        connect_args={
            "connect_timeout": 10,
            # A server that vanishes without a word is noticed in 30 s, not in two hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 4,
            "tcp_user_timeout": 30_000,
            "application_name": f"tensorguard-{service}",
            "options": "-c timezone=UTC -c lock_timeout=10s"
            " -c idle_in_transaction_session_timeout=60s",
        },
    )


def session_maker(engine: AsyncEngine) -> SessionMaker:
    """Return the factory of sessions; whoever opens one decides when it commits."""
    return async_sessionmaker(engine, expire_on_commit=False)


async def check_schema(engine: AsyncEngine) -> None:
    """Refuse to serve on a schema or heartbeat engine that is not this program's.

    Raises: DatabaseUnreachable, SchemaOutdated, EngineMismatch.
    """
    try:
        async with engine.connect() as connection:
            found = await connection.run_sync(_revision)
            if found != head_revision():
                raise SchemaOutdated(
                    f"the schema is at {found}, this program needs {head_revision()}"
                )
            await connection.run_sync(check_engine)
    except sa.exc.OperationalError as error:
        raise DatabaseUnreachable(f"the database did not answer: {error.orig}") from None


def _revision(connection: sa.Connection) -> str | None:
    if connection.execute(sa.text("SELECT to_regclass('alembic_version')")).scalar() is None:
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


async def driver_connection(session: AsyncSession) -> psycopg.AsyncConnection[Any]:
    """Return the psycopg connection under the session's transaction, for COPY."""
    raw = await (await session.connection()).get_raw_connection()
    connection = raw.driver_connection
    assert isinstance(connection, psycopg.AsyncConnection)
    return connection


def store_error(error: Exception) -> StoreError | None:
    """Return what a driver's error means to an operator; None if the program is at fault."""
    original = getattr(error, "orig", error)
    if isinstance(original, psycopg.errors.DiskFull):
        return DatabaseFull("the database server has no disk space left")
    if isinstance(original, psycopg.errors.CheckViolation) and not original.diag.constraint_name:
        return PartitionMissing(f"no partition of {original.diag.table_name} takes this row")
    if isinstance(
        original, psycopg.OperationalError | psycopg.InterfaceError | sa.exc.TimeoutError
    ):
        return DatabaseUnreachable(f"the database did not answer: {str(original)[:200]}")
    return None


@asynccontextmanager
async def listening(url: str, *channels: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Yield an autocommit connection that LISTENs on `channels`; polling stays the floor."""
    connection = await psycopg.AsyncConnection.connect(
        libpq_url(url), autocommit=True, connect_timeout=10, application_name="tensorguard-listen"
    )
    try:
        for channel in channels:
            await connection.execute(
                psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel))
            )
        yield connection
    finally:
        await connection.close()
