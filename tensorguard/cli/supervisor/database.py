"""The embedded PostgreSQL as a child, and the URLs of whichever database the platform uses."""

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tensorguard.cli.supervisor.errors import BadSettings
from tensorguard.cli.supervisor.output import Output
from tensorguard.store.embedded.server import EmbeddedPostgres

_LEVELS = {"LOG": "info", "WARNING": "warning"} | dict.fromkeys(
    ("ERROR", "FATAL", "PANIC"), "error"
)
_APP, _OWNER = "TG_DATABASE_URL", "TG_DATABASE_OWNER_URL"


@dataclass(frozen=True)
class DatabaseUrls:
    """How each role reaches the database; the services never see the owner's."""

    app: str
    owner: str


def find_given_urls(environment: Mapping[str, str]) -> DatabaseUrls | None:
    """The URLs of a server that somebody else runs, or None to run one.

    Raises: BadSettings when only one of the two is set.
    """
    app, owner = environment.get(_APP), environment.get(_OWNER)
    if app and owner:
        return DatabaseUrls(app=app, owner=owner)
    if app or owner:
        given, absent = (_APP, _OWNER) if app else (_OWNER, _APP)
        raise BadSettings(
            f"{given} is set and {absent} is not.",
            hint=f"Set {absent} too (tensorguard/store/roles.sql makes the roles), or unset both.",
        )
    return None


class PostgresChild:
    """The embedded server, for the supervisor."""

    name = "postgres"

    def __init__(self, directory: Path, *, output: Output) -> None:
        self._output = output
        self._server = EmbeddedPostgres(directory, on_line=self._relay)

    @property
    def urls(self) -> DatabaseUrls:
        """Known once it has started; the same after every restart."""
        return DatabaseUrls(app=self._server.app_url, owner=self._server.owner_url)

    @property
    def pid(self) -> int | None:
        return self._server.pid

    def _relay(self, line: str) -> None:
        """Pass a line of the server's log on as a record with a level."""
        severity, colon, text = line.partition(":")
        if colon and severity in _LEVELS:
            line = json.dumps({"event": text.strip(), "level": _LEVELS[severity]})
        self._output.relay(self.name, line)

    async def start(self) -> None:
        await self._server.stop()  # what an earlier start may have left
        await self._server.start()

    async def wait(self) -> int:
        return await self._server.wait()

    async def stop(self, hasten: asyncio.Event) -> None:
        """Shut down fast either way: that takes no longer than to write what is in memory."""
        await self._server.stop()


def service_environment(urls: DatabaseUrls, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service: ours, the settings, and never the owner's URL."""
    inherited = {name: value for name, value in os.environ.items() if name != _OWNER}
    return {**inherited, **settings, _APP: urls.app}
