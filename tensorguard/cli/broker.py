"""`tensorguard broker`: the process that agents and the hub connect to."""

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from broker.main import run as run_broker
from broker.nats.errors import NatsServerMissing
from broker.settings import BrokerSettings
from tensorguard.cli import lifeline
from tensorguard.cli.logs import configure_logs

app = typer.Typer(help="The broker front: mTLS MQTT for agents and hubs.")
# More than the server of a node takes to end, when it ends its sessions one after the other.
_NODE_ENDS_WITHIN_S = 55.0


@app.callback()
def broker() -> None:
    """The broker front."""


@app.command()
def run() -> None:
    """Run the broker front until SIGTERM; settings come from TG_… variables."""
    configure_logs()
    settings = BrokerSettings()  # type: ignore[call-arg] # pydantic reads the environment
    if settings.broker_engine == "nats":
        _check_installed()
    uvloop.run(_serve(settings))


async def _serve(settings: BrokerSettings) -> None:
    stop = asyncio.Event()
    lifeline.install(stop)
    await run_broker(settings, stop, lifeline.notify_ready)


@app.command()
def nats_keys(
    out: Annotated[Path, typer.Option(help="Where to write them; the file must not exist.")],
) -> None:
    """Make the keys of the auth callout: every node and front of a platform has the same file."""
    _check_installed()
    from broker.nats.keys import CalloutKeys

    keys = CalloutKeys.generate()
    try:
        keys.store(out)
    except OSError as error:
        raise typer.BadParameter(f"{out}: {error.strerror}") from error
    typer.echo(f"{out}: keys of the auth callout, issuer {keys.issuer}")


@app.command()
def nats_server() -> None:
    """Run one NATS node until SIGTERM: its certificate, configuration, server and store."""
    _check_installed()
    from broker.nats.node import run as run_node
    from broker.nats.settings import KeeperSettings

    async def serve() -> None:
        stop = asyncio.Event()
        lifeline.install(stop, hard_exit_after_s=_NODE_ENDS_WITHIN_S)
        await run_node(settings, stop, lifeline.notify_ready)

    configure_logs()
    settings = KeeperSettings()  # type: ignore[call-arg] # pydantic reads the environment
    asyncio.run(serve())


@app.command()
def nats_config(
    trust_domain: Annotated[
        str, typer.Option(envvar="TG_TRUST_DOMAIN", help="As the platform was made with.")
    ] = "tensorguard.local",
) -> None:
    """Print the configuration of a NATS server that somebody else runs."""
    _check_installed()
    from broker.nats.configuration import render
    from broker.nats.keys import CalloutKeys
    from broker.nats.settings import NodeSettings

    settings = NodeSettings()  # type: ignore[call-arg] # pydantic reads the environment
    keys = CalloutKeys.load(settings.nats_keys)
    typer.echo(render(settings.node(keys, trust_domain)), nl=False)


def _check_installed() -> None:
    """Before anything of the extra `nats` is imported. Raises: NatsServerMissing."""
    for library in ("nats", "nkeys", "nacl"):
        if find_spec(library) is None:
            raise NatsServerMissing(f"the NATS engine needs {library}, which is not installed")
