"""Which hub sends to which sink: advisory locks of one connection, gone when that is gone."""

import hashlib
from typing import Any, Final
from uuid import UUID

import psycopg

from tensorguard.store.url import libpq_url

_SPACE: Final = b"tensorguard.sink/"


class SinkLocks:
    """The locks of one hub. A connection that breaks loses all of them: `check` notices."""

    def __init__(self, database_url: str) -> None:
        self._url = libpq_url(database_url)
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def try_lock(self, sink_id: UUID) -> bool:
        """Take a sink's lock unless another hub has it. Raises: psycopg.Error."""
        connection = await self._connected()
        query = "SELECT pg_try_advisory_lock(%s)"
        row = await (await connection.execute(query, (_key(sink_id),))).fetchone()
        return bool(row and row[0])

    async def unlock(self, sink_id: UUID) -> None:
        """Let another hub have it. Raises: psycopg.Error."""
        if self._connection is not None:
            await self._connection.execute("SELECT pg_advisory_unlock(%s)", (_key(sink_id),))

    async def check(self) -> None:
        """Ask the connection that holds the locks. Raises: psycopg.Error where they are lost."""
        if self._connection is not None:
            await self._connection.execute("SELECT 1")

    async def close(self) -> None:
        """Let others have all of them."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None:
            self._connection = await psycopg.AsyncConnection.connect(
                self._url,
                autocommit=True,
                connect_timeout=10,
                application_name="tensorguard-sinks",
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=4,
                tcp_user_timeout=30_000,
            )
        return self._connection


def _key(sink_id: UUID) -> int:
    """64 bits of a hash: other locks are small numbers, and no two sinks share one."""
    digest = hashlib.sha256(_SPACE + sink_id.bytes).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
