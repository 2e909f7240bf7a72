"""KEKs and their providers for commands that work on the platform's own machine."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.cli.database import find_database_url
from tensorguard.cli.supervisor.place import default_data_directory
from tensorguard.services.keys.kek_providers import KekProviders, KekSettings
from tensorguard.services.keys.keks import Kek, get_active_kek, get_kek
from tensorguard.store.engine import SessionMaker, check_schema, create_engine, session_maker

T = TypeVar("T")
_SHOWN: Final = (
    "fleet",
    "provider",
    "key_id",
    "origin",
    "state",
    "key_version",
    "key_state",
    "trouble_code",
    "trouble_reason",
)

KekId = Annotated[
    str,
    typer.Argument(metavar="[KEK]", help="A KEK's id, or a fleet's slug; nothing: the platform's."),
]


def run_on_platform(
    data_dir: Path | None,
    work: Callable[[SessionMaker, KekProviders], Awaitable[T]],
    *,
    check_expected: bool = True,
) -> T:
    """Run `work` on the platform of the data directory, beside its services.

    Raises: StoreError, PlatformNotInitialised, KekMismatch, VaultError, and what `work` raises.
    """
    url, directory = find_database_url(data_dir), data_dir or default_data_directory()
    settings = KekSettings()

    async def run() -> T:
        engine = create_engine(url, service="keys", pool_size=2)
        sessions = session_maker(engine)
        try:
            await check_schema(engine)
            async with sessions() as session:
                keks = await KekProviders.load(
                    session,
                    settings.opener(directory),
                    expected=settings.kek if check_expected else "",
                )
            try:
                return await work(sessions, keks)
            finally:
                await keks.close()
        finally:
            await engine.dispose()

    return asyncio.run(run())


async def find_kek(session: AsyncSession, text: str) -> Kek:
    """Return the KEK of this id, of this fleet, or of the platform."""
    try:
        return await get_kek(session, UUID(text))
    except ValueError:
        return await get_active_kek(session, text or None)


def facts_of(kek: Kek, **more: Any) -> dict[str, Any]:
    """A KEK as JSON values."""
    return {
        "id": str(kek.id),
        "reference": f"{kek.provider}:{kek.key_id}",
        **{name: getattr(kek, name) for name in _SHOWN},
        "expires_at": kek.expires_at and kek.expires_at.isoformat(),
        **more,
    }


def print_facts(facts: dict[str, Any], as_json: bool, text: str) -> None:
    """Print one line for people, or the facts."""
    typer.echo(json.dumps(facts) if as_json else text)


def utc_now() -> datetime:
    """The system clock, aware UTC."""
    return datetime.now(UTC)
