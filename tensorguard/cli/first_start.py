"""Makes a migrated database a platform: its keys, its administrator and their first password."""

from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from tensorguard.services.keys.kek_providers import KekProviders, KekSettings
from tensorguard.services.platform import bootstrap
from tensorguard.store import tables
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.vault.private_file import read_private, replace_private
from tensorguard.vault.provider import KeyProvider
from tensorguard.vault.reference import KekReference

ROOT_KEYS_DIRECTORY = "root-keys"
_PASSWORD_FILE = "initial-admin-password"  # noqa: S105 - the name of a file
_PASSWORD_MAX_BYTES = 1024


async def ensure_platform(database_url: str, data_directory: Path, *, trust_domain: str) -> None:
    """Make the keys and the administrator unless they exist; safe to be killed in.

    Raises: ServiceError, VaultError: also when the key file of an existing platform is missing,
    which is never made anew.
    """
    root_keys = data_directory / ROOT_KEYS_DIRECTORY
    root_keys.mkdir(mode=0o700, exist_ok=True)
    engine = create_engine(database_url, service="up", pool_size=1)
    try:
        async with session_maker(engine)() as session:
            query = sa.select(tables.platform.c.initialised_at)
            exists = (await session.execute(query)).scalar_one() is not None
            settings = KekSettings()
            opener = settings.opener(data_directory)
            kek: KeyProvider = (
                await KekProviders.load(session, opener, expected=settings.kek)
                if exists
                else opener.open_first(KekReference.parse(settings.kek or "local"))
            )
            made = await bootstrap(
                session,
                kek=kek,
                trust_domain=trust_domain,
                root_dir=root_keys,
                now=datetime.now(UTC),
            )
            if made.admin_password is not None:  # kept before the commit: it is nowhere else
                replace_private(data_directory / _PASSWORD_FILE, made.admin_password.encode())
            await session.commit()
    finally:
        await engine.dispose()


def find_initial_password(data_directory: Path) -> str | None:
    """The administrator's first password, while nobody has been told it."""
    path = data_directory / _PASSWORD_FILE
    if not path.exists():
        return None
    return read_private(path, _PASSWORD_MAX_BYTES).decode()


def forget_initial_password(data_directory: Path) -> None:
    """Remove the only copy: somebody has read it."""
    (data_directory / _PASSWORD_FILE).unlink(missing_ok=True)
