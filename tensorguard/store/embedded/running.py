"""Finds the embedded PostgreSQL that runs in a directory, for a command beside the platform."""

from pathlib import Path
from urllib.parse import quote

from tensorguard.store.embedded.cluster import APP_ROLE

_DATABASE = "tensorguard"
# Lines of postmaster.pid, as PostgreSQL's miscadmin.h numbers them from 1.
_PORT_LINE, _SOCKET_LINE, _STATUS_LINE = 4, 5, 8


def find_app_url(directory: Path) -> str | None:
    """Return the services' URL of the server in `directory`, or None if none is ready there."""
    try:
        lines = (directory / "data" / "postmaster.pid").read_text().splitlines()
    except OSError:
        return None
    if len(lines) < _STATUS_LINE or lines[_STATUS_LINE - 1].strip() != "ready":
        return None
    host = quote(lines[_SOCKET_LINE - 1], safe="/")
    return f"postgresql://{APP_ROLE}@/{_DATABASE}?host={host}&port={lines[_PORT_LINE - 1]}"
