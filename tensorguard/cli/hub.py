"""`tensorguard hub`: the process that reads from agents and writes to the database."""

import asyncio

import typer

from hub.main import run as run_hub
from hub.settings import HubSettings
from tensorguard.cli import lifeline
from tensorguard.cli.logs import configure_logs
from tensorguard.vault.secret_memory import forbid_core_dumps

app = typer.Typer(help="The hub: intake, outbox, rollout controller, ledger sequencer.")


@app.callback()
def hub() -> None:
    """The hub."""


@app.command()
def run() -> None:
    """Run the hub until SIGTERM; settings come from TG_… variables."""
    configure_logs()
    forbid_core_dumps()
    asyncio.run(_serve(HubSettings()))  # type: ignore[call-arg] # pydantic reads the environment


async def _serve(settings: HubSettings) -> None:
    stop = asyncio.Event()
    lifeline.install(stop)
    await run_hub(settings, stop, lifeline.notify_ready)
