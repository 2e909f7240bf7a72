"""What can be wrong with the database, each with a stable code and the way out."""


class StoreError(Exception):
    """The database is missing, foreign, or does not hold what was asked for."""

    code = "store-error"
    hint = "Look at the service's log for the statement that failed."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class DatabaseUnreachable(StoreError):
    """No connection could be made."""

    code = "database-unreachable"
    hint = "Check TG_DATABASE_URL, that PostgreSQL runs, and that it accepts this role."


class DatabaseFull(StoreError):
    """The server has no disk space left for a write; nothing of the transaction was kept."""

    code = "database-full"
    hint = "Free space on the volume that holds PostgreSQL's data; the platform goes on by itself."


class PartitionMissing(StoreError):
    """No heartbeat partition covers the present: the maintenance has not run for days."""

    code = "heartbeat-partition-missing"
    hint = "Run 'tensorguard db maintain' as the owner now, and see that it runs every hour."


class HistorySettingsInvalid(StoreError):
    """How long heartbeats are kept contradicts itself."""

    code = "history-settings-invalid"
    hint = "See docs/database.md for what each setting does and what depends on it."


class RolesMissing(StoreError):
    """The server has not the roles that the schema grants rights to."""

    code = "database-roles-missing"
    hint = "Have an administrator of the server run tensorguard/store/roles.sql once."


class SchemaOutdated(StoreError):
    """The schema is older or newer than this program."""

    code = "schema-mismatch"
    hint = "Run 'tensorguard db upgrade' with the version of the program that is to serve."


class EngineMismatch(StoreError):
    """The database was created with another heartbeat engine than the server offers now."""

    code = "engine-mismatch"
    hint = (
        "Install TimescaleDB in this database (CREATE EXTENSION timescaledb) or restore the data"
        " into a database without it; the engine is chosen once, at the first migration."
    )
