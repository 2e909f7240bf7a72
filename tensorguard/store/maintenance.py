"""What a database needs every few minutes: partitions ahead, rollups, and old ones dropped."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from tensorguard.store.errors import DatabaseUnreachable
from tensorguard.store.history import HistorySettings, change_settings
from tensorguard.store.partitions import drop_expired_partitions, ensure_partitions
from tensorguard.store.rollups import RolledUp, roll_up
from tensorguard.store.timescale import apply_settings
from tensorguard.store.url import driver_url


@dataclass(frozen=True, slots=True)
class Maintained:
    """The partitions that were made and dropped, what was rolled up, and settings that took effect.

    On TimescaleDB only the last: it does the rest itself.
    """

    made: list[str]
    dropped: list[str]
    rolled_up: RolledUp
    applied: list[str]


def maintain(owner_url: str, now: datetime | None = None) -> Maintained:
    """Make the partitions of the coming intervals, roll heartbeats up and drop what has expired.

    Safe to run by several processes at once; what one run does not finish the next goes on with.

    Raises: DatabaseUnreachable.
    """
    with _owner(owner_url) as engine:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            applied = apply_settings(connection)
        with engine.begin() as connection:
            made = ensure_partitions(connection, now)
        rolled_up = roll_up(engine, now)
        return Maintained(made, drop_expired_partitions(engine, now), rolled_up, applied)


def configure(owner_url: str, **changes: timedelta) -> HistorySettings:
    """Set how history is kept, on TimescaleDB at once, and return all settings.

    On native partitions the next maintenance goes by them.

    Raises: DatabaseUnreachable, HistorySettingsInvalid.
    """
    with _owner(owner_url) as engine:
        with engine.begin() as connection:
            settings = change_settings(connection, **changes)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            apply_settings(connection)
        return settings


@contextmanager
def _owner(owner_url: str) -> Iterator[sa.Engine]:
    """Give an engine for what only the owner may do."""
    engine = sa.create_engine(
        driver_url(owner_url),
        connect_args={
            "connect_timeout": 10,
            "prepare_threshold": None,  # each statement runs once or twice
            "application_name": "tensorguard-maintenance",
            "options": "-c timezone=UTC -c lock_timeout=60s",
        },
    )
    try:
        yield engine
    except sa.exc.OperationalError as error:
        raise DatabaseUnreachable(f"the database did not answer: {error.orig}") from None
    finally:
        engine.dispose()
