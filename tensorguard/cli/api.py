"""`tensorguard api`: the REST API for people and the listener for devices."""

import asyncio

import typer
import uvloop

from api.serve import run as run_api
from api.settings import ApiSettings, load_settings
from tensorguard.cli import lifeline
from tensorguard.cli.logs import configure_logs
from tensorguard.vault.secret_memory import forbid_core_dumps

app = typer.Typer(help="The REST API for people, and the listener for devices.")


@app.callback()
def api() -> None:
    """The API."""


@app.command()
def run() -> None:
    """Run the API until SIGTERM; settings come from TG_… variables."""
    configure_logs()
    forbid_core_dumps()
    uvloop.run(_serve(load_settings()))


async def _serve(settings: ApiSettings) -> None:
    stop = asyncio.Event()
    lifeline.install(stop)
    await run_api(settings, stop, lifeline.notify_ready)
