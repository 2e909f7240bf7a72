"""Bring a database to this program's schema, as its owner."""

from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from tensorguard.store.errors import DatabaseUnreachable, EngineMismatch, RolesMissing
from tensorguard.store.partitions import ensure_partitions
from tensorguard.store.timescale import apply_settings
from tensorguard.store.url import driver_url

ROLES = ("tg_owner", "tg_app", "tg_sequencer")
_LOCK = 7290410


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


@cache
def head_revision() -> str:
    """Return the newest schema revision that this program knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("the program was packaged without its migrations")
    return head


def upgrade(owner_url: str) -> None:
    """Migrate to the newest schema, and make partitions or TimescaleDB's jobs for heartbeats.

    Safe to run by several processes at once and again at every start.

    Raises: DatabaseUnreachable, RolesMissing, EngineMismatch.
    """
    # Nothing is prepared: each statement runs once.
    connect_args = {"connect_timeout": 10, "prepare_threshold": None}
    engine = sa.create_engine(driver_url(owner_url), connect_args=connect_args)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_advisory_lock(%s)", (_LOCK,))
            connection.commit()
            _check_roles(connection)
            if connection.execute(sa.text("SELECT to_regclass('platform')")).scalar():
                check_engine(connection)
            connection.commit()
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
            check_engine(connection)
            ensure_partitions(connection)
            connection.commit()
            connection.execution_options(isolation_level="AUTOCOMMIT")
            apply_settings(connection)
            connection.exec_driver_sql("SELECT pg_advisory_unlock(%s)", (_LOCK,))
    except sa.exc.OperationalError as error:
        raise DatabaseUnreachable(f"the database did not answer: {error.orig}") from None
    finally:
        engine.dispose()


def find_timescale(connection: sa.Connection) -> str | None:
    """Return the version of TimescaleDB in this database if its license allows all of it."""
    version = connection.execute(
        sa.text("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    ).scalar()
    if version is None:
        return None
    license_ = connection.execute(
        sa.text("SELECT current_setting('timescaledb.license', true)")
    ).scalar()
    return str(version) if license_ == "timescale" else None


def check_engine(connection: sa.Connection) -> None:
    """Compare the engine of the first migration with what the server offers now.

    Raises: EngineMismatch.
    """
    engine = connection.execute(sa.text("SELECT engine FROM platform")).scalar_one()
    if engine == "timescale" and find_timescale(connection) is None:
        raise EngineMismatch("the heartbeats live in a hypertable, but TimescaleDB is missing")


def _check_roles(connection: sa.Connection) -> None:
    found = set(
        connection.execute(
            sa.text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:roles)"),
            {"roles": list(ROLES)},
        ).scalars()
    )
    connection.commit()
    if missing := [role for role in ROLES if role not in found]:
        raise RolesMissing(f"the server lacks the role(s) {', '.join(missing)}")
