"""One PostgreSQL for a test run: a migrated template, and a clone of it wherever one is needed."""

import asyncio
import contextlib
import importlib.util
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from tensorguard.store.embedded.server import EmbeddedPostgres
from tensorguard.store.roles import create_roles


@dataclass(frozen=True)
class Server:
    """The server of a test run; plain text, so that the xdist controller can hand it down."""

    superuser_url: str
    """Of any database; the database's name stands between `/` and `?`."""
    password: str
    """Of the two roles, where the server asks for one."""
    template: str

    def url(self, role: str | None, database: str) -> str:
        """The URL of a database for a role; None is the superuser."""
        head, _, rest = self.superuser_url.partition("://")
        place, _, tail = rest.partition("/")
        _, mark, query = tail.partition("?")
        user, at, host = place.rpartition("@")
        if role is not None:
            user = f"{role}:{quote(self.password)}" if host else role
        return f"{head}://{user}{at or '@'}{host}/{database}{mark}{query}"

    def clone(self, name: str) -> "Database":
        """Make a database from the migrated template, instead of the one of that name."""
        with self._connect() as connection:
            self._drop(connection, name)
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER tg_owner TEMPLATE {} STRATEGY file_copy").format(
                    sql.Identifier(name), sql.Identifier(self.template)
                )
            )
        return Database(
            name=name,
            owner_url=self.url("tg_owner", name),
            app_url=self.url("tg_app", name),
            superuser_url=self.url(None, name),
        )

    def drop(self, name: str) -> None:
        """Remove a database, with the connections that are still open to it."""
        with self._connect() as connection:
            self._drop(connection, name)

    def _drop(self, connection: "psycopg.Connection[tuple[object, ...]]", name: str) -> None:
        connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    def _connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(self.url(None, "postgres"), autocommit=True)


@dataclass(frozen=True)
class Database:
    """A migrated database; the URLs are libpq's (`postgresql://…`)."""

    name: str
    owner_url: str
    app_url: str
    superuser_url: str

    def is_cleaned(self, *, keep: frozenset[str]) -> bool:
        """Delete every row but those of the tables to keep; false when a table refuses."""
        with psycopg.connect(self.superuser_url) as connection:
            connection.execute("SET session_replication_role = replica")  # no foreign keys
            connection.execute("SET lock_timeout = '5s'")
            tables = self.tables_with_rows(connection) - keep
            statements = [sql.SQL("DELETE FROM {}").format(sql.Identifier(t)) for t in tables]
            try:
                connection.execute(sql.SQL(";").join(statements))
            except psycopg.Error:  # append-only by design, or a test left a transaction open
                connection.rollback()
                return False
        return True

    def filled_tables(self) -> frozenset[str]:
        """The names of the tables that have rows."""
        with psycopg.connect(self.superuser_url) as connection:
            return self.tables_with_rows(connection)

    def tables_with_rows(
        self, connection: "psycopg.Connection[tuple[object, ...]]"
    ) -> frozenset[str]:
        """The names of the tables that have rows; partitions count as their parent."""
        names = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
            " AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        if not names:
            return frozenset()
        probe = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})").format(
                sql.Literal(name), sql.Identifier(str(name))
            )
            for (name,) in names
        )
        return frozenset(str(name) for (name,) in connection.execute(probe).fetchall())


@contextlib.contextmanager
def running_server(given_url: str | None) -> Iterator[Server]:
    """A server with a migrated template: the given one, or an embedded one in a temporary folder.

    given_url: a superuser's, of a server that is for tests alone: its roles get a new password.
    Where TimescaleDB is preloaded the databases have it.
    """
    with contextlib.ExitStack() as stack:
        url = given_url or stack.enter_context(_embedded())
        server = Server(url, secrets.token_hex(16), f"tg_test_{secrets.token_hex(4)}")
        asyncio.run(_prepare(server))
        stack.callback(server.drop, server.template)
        _migrate(server.url("tg_owner", server.template))
        _close(server)
        yield server


@contextlib.contextmanager
def _embedded() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="tg-test-"))
    folder.chmod(0o711)  # as root the server is another user, who has to pass through
    server = EmbeddedPostgres(folder / "pg", durable=False)
    try:
        asyncio.run(server.start())
        yield server.superuser_url
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)


async def _prepare(server: Server) -> None:
    url = server.url(None, "postgres")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await create_roles(connection)
        for role in ("tg_owner", "tg_app"):
            await connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(server.password)
                )
            )
        await connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER tg_owner TEMPLATE template0").format(
                sql.Identifier(server.template)
            )
        )
        preloaded = await (await connection.execute("SHOW shared_preload_libraries")).fetchone()
    if preloaded is not None and "timescaledb" in str(preloaded[0]):
        url = server.url(None, server.template)
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("CREATE EXTENSION timescaledb")


def _close(server: Server) -> None:
    """End whoever is in the template, TimescaleDB's workers too: it could not be cloned."""
    with psycopg.connect(server.url(None, "postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(
                sql.Identifier(server.template)
            )
        )
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s",
            (server.template,),
        )


def _migrate(owner_url: str) -> None:
    if importlib.util.find_spec("tensorguard.store.migrate") is None:
        return
    from tensorguard.store.migrate import upgrade

    upgrade(owner_url)
