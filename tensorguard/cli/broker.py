"""`tensorguard broker`: the process that agents and the hub connect to."""

import asyncio

import typer
import uvloop

from broker.main import run as run_broker
from broker.settings import BrokerSettings
from tensorguard.cli import lifeline
from tensorguard.cli.logs import configure_logs

app = typer.Typer(help="The broker front: mTLS MQTT for agents and hubs.")


@app.callback()
def broker() -> None:
    """The broker front."""


@app.command()
def run() -> None:
    """Run the broker front until SIGTERM; settings come from TG_… variables."""
    configure_logs()
    uvloop.run(_serve(BrokerSettings()))  # type: ignore[call-arg] # pydantic reads the environment


async def _serve(settings: BrokerSettings) -> None:
    stop = asyncio.Event()
    lifeline.install(stop)
    await run_broker(settings, stop, lifeline.notify_ready)
