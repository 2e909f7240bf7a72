"""`tensorguard up`: the whole platform on this machine, for as long as it runs."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from tensorguard.cli.supervisor.addresses import Wishes
from tensorguard.cli.supervisor.errors import UpError
from tensorguard.cli.supervisor.output import Output
from tensorguard.cli.supervisor.place import default_data_directory
from tensorguard.cli.supervisor.platform import Ready, UpRequest, run_platform

app = typer.Typer(add_completion=False)


@app.command()
def up(
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept.", show_default="by user")
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="For people: plain HTTP, on loopback only."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="For devices: enrollment, downloads.")
    ] = None,
    mqtt: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="For devices: MQTT over mutual TLS.")
    ] = None,
    public_host: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,IP…]",
            help="How devices reach this machine; goes into join strings and certificates.",
        ),
    ] = None,
    trust_domain: Annotated[
        str, typer.Option(envvar="TG_TRUST_DOMAIN", help="Part of every agent's identity.")
    ] = "tensorguard.local",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line when ready, log JSON to stderr.")
    ] = False,
) -> None:
    """Run the whole platform on this machine: database, broker, hub and API.

    Addresses are chosen at the first start, kept in the data directory and used again. With
    TG_DATABASE_URL and TG_DATABASE_OWNER_URL it uses that server instead of one of its own.
    """
    request = UpRequest(
        data_directory=data_dir or default_data_directory(),
        wishes=Wishes(http=http, device=device, mqtt=mqtt, public_host=public_host),
        trust_domain=trust_domain,
    )
    output = Output(as_json=True if as_json else None)
    announce = announce_as_json if as_json else announce_to_people
    try:
        asyncio.run(run_platform(request, output=output, announce=announce))
    except OSError as error:
        raise UpError(str(error), hint="Check the data directory and its file system.") from error


def announce_as_json(ready: Ready) -> None:
    """Print what a script wants to know, in one line."""
    typer.echo(json.dumps({"ready": True, **_urls(ready)}))


def announce_to_people(ready: Ready) -> None:
    """Print what a person wants to know."""
    urls = _urls(ready)
    typer.echo(
        f"\nTensorGuard is ready: {urls['url']}\n"
        f"  devices    {urls['device_url']}\n"
        f"  MQTT       {urls['mqtt_url']}\n"
        f"  data       {ready.data_directory}\n"
        "Ctrl-C stops it.\n"
    )


def _urls(ready: Ready) -> dict[str, str]:
    addresses = ready.addresses
    return {
        "url": f"http://{addresses.http}",
        "device_url": addresses.url("https", addresses.device),
        "mqtt_url": addresses.url("mqtts", addresses.mqtt),
    }
