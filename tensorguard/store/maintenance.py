"""What a database on native partitions needs every hour: new partitions ahead, old ones dropped."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from tensorguard.store.errors import DatabaseUnreachable
from tensorguard.store.partitions import drop_expired_partitions, ensure_partitions
from tensorguard.store.url import driver_url


@dataclass(frozen=True, slots=True)
class Maintained:
    """The partitions that were made and dropped."""

    made: list[str]
    dropped: list[str]


def maintain(owner_url: str, now: datetime | None = None) -> Maintained:
    """Make the heartbeat partitions of the coming intervals and drop the expired ones.

    Safe to run by several processes at once. Does nothing on TimescaleDB, which does it itself.

    Raises: DatabaseUnreachable.
    """
    engine = sa.create_engine(
        driver_url(owner_url),
        connect_args={
            "connect_timeout": 10,
            "application_name": "tensorguard-maintenance",
            "options": "-c timezone=UTC -c lock_timeout=60s",
        },
    )
    try:
        with engine.begin() as connection:
            made = ensure_partitions(connection, now)
        return Maintained(made, drop_expired_partitions(engine, now))
    except sa.exc.OperationalError as error:
        raise DatabaseUnreachable(f"the database did not answer: {error.orig}") from None
    finally:
        engine.dispose()
