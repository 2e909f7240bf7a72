"""Makes the platform's roles and its empty database on a PostgreSQL server."""

from pathlib import Path

from psycopg import AsyncConnection, sql

_ROLES_SQL = Path(__file__).with_name("roles.sql")


async def create_roles(connection: AsyncConnection[tuple[object, ...]]) -> None:
    """Run roles.sql, which says what the roles are for; a superuser's connection, idempotent."""
    await connection.execute(_ROLES_SQL.read_bytes())


async def create_database(connection: AsyncConnection[tuple[object, ...]], name: str) -> None:
    """Make the database for tg_owner unless it exists; the connection is in autocommit mode."""
    found = await connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,))
    if found.rowcount == 0:
        await connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER tg_owner TEMPLATE template0 ENCODING 'UTF8'").format(
                sql.Identifier(name)
            )
        )
