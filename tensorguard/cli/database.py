"""The platform's database, for commands that work on it directly, beside the running services."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.cli.supervisor.place import default_data_directory
from tensorguard.services.evidence.event import Actor
from tensorguard.store.embedded.running import find_app_url
from tensorguard.store.engine import check_schema, create_engine, session_maker
from tensorguard.store.errors import DatabaseUnreachable

# Whoever may read the database's credentials on this machine: not one of the platform's users.
OPERATOR = Actor("system", "command-line")

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="TG_DATA_DIR",
        help="Where 'tensorguard up' keeps everything.",
        show_default="by user",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

T = TypeVar("T")


def find_database_url(data_dir: Path | None) -> str:
    """Return TG_DATABASE_URL, or the URL of the embedded PostgreSQL of the data directory.

    Raises: DatabaseUnreachable.
    """
    given = os.environ.get("TG_DATABASE_URL")
    if given:
        return given
    directory = data_dir or default_data_directory()
    url = find_app_url(directory / "postgres")
    if url is None:
        raise DatabaseUnreachable(
            f"no platform runs in {directory}",
            hint="Start it with 'tensorguard up', name its --data-dir, or set TG_DATABASE_URL.",
        )
    return url


async def in_transaction(url: str, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Run `work` in one transaction and commit it.

    Raises: StoreError, and what `work` raises; nothing is stored then.
    """
    engine = create_engine(url, service="admin", pool_size=1)
    try:
        await check_schema(engine)
        async with session_maker(engine).begin() as session:
            return await work(session)
    finally:
        await engine.dispose()
