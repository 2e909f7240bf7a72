"""`tensorguard demo`: a platform with fleets, agents and a deployed model, to look at."""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tensorguard.cli.showcase import credentials, model
from tensorguard.cli.showcase.credentials import FILE, Credentials
from tensorguard.cli.showcase.demo import Demo
from tensorguard.cli.showcase.log import RotatingLog
from tensorguard.cli.supervisor.addresses import Wishes
from tensorguard.cli.supervisor.broker import Engine
from tensorguard.cli.supervisor.errors import UpError
from tensorguard.cli.supervisor.output import Output
from tensorguard.cli.supervisor.place import create_data_directory, default_data_directory
from tensorguard.cli.supervisor.platform import Ready, UpRequest, run_platform

app = typer.Typer(add_completion=False)

Say = Callable[[str], None]
Announce = Callable[[str, Path, Credentials], None]


@app.command()
def demo(
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept.", show_default="by user")
    ] = None,
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="For people, on loopback.")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="For devices.")] = None,
    mqtt: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="For devices.")] = None,
    enroll_mqtt: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="For devices of manufacturers.")
    ] = None,
    agents: Annotated[int, typer.Option(min=1, max=1000, help="How many are simulated.")] = 25,
    engine: Annotated[
        Engine | None,
        typer.Option(help="What carries the messages; remembered.", show_default="embedded"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line when all is there; talk on stderr.")
    ] = False,
) -> None:
    """Run the platform with two fleets, simulated agents, this machine's own, and a real model.

    Ctrl-C stops it; the next run goes on where it was.
    """
    model.find_model()
    directory = create_data_directory(data_dir or default_data_directory())
    request = UpRequest(
        data_directory=directory,
        wishes=Wishes(http, device, mqtt, enroll_mqtt),
        trust_domain="tensorguard.local",
        engine=engine,
    )
    say = partial(typer.echo, err=as_json)
    announce = _announce_as_json if as_json else _announce_to_people
    say("starting the platform: database, broker, hub, API (the first time takes longer)")
    try:
        with RotatingLog(directory / "demo" / "platform.log") as log:
            output = Output(log, as_json=True)
            asyncio.run(_run(request, output, agents, say, announce))
    except OSError as error:
        raise UpError(str(error), hint="Check the data directory and its file system.") from error
    say("\nstopped; run it again to go on where it was")


async def _run(
    request: UpRequest, output: Output, agents: int, say: Say, announce: Announce
) -> None:
    def keep(ready: Ready) -> None:
        credentials.keep_first_password(ready.data_directory, ready.admin_password)

    async def show(ready: Ready) -> None:
        url = f"http://{ready.addresses.http}"
        say(f"the platform is up: {url}")
        shown = Demo(
            data_directory=ready.data_directory,
            url=url,
            agents=agents,
            say=lambda line: say(f"  {line}"),
        )
        await shown.run(partial(announce, url, ready.data_directory))

    await run_platform(request, output=output, announce=keep, guest=show)


def _announce_as_json(url: str, directory: Path, known: Credentials) -> None:
    admin = {"email": known.email, "password": known.password}
    typer.echo(json.dumps({"ready": True, "url": url, "admin": admin}))


def _announce_to_people(url: str, directory: Path, known: Credentials) -> None:
    typer.echo(
        f"\nThe TensorGuard demo is running: {url}\n"
        f"  sign in    {known.email}\n"
        f"  password   {known.password}   (kept in {directory / FILE})\n"
        f"  logs       {directory / 'demo'}\n"
        "\nWhat to look at\n"
        "  Overview      every agent by presence, and the heartbeats as they arrive\n"
        "  Agents        filter by gpu=true or region=eu-west; this machine's own agent runs the\n"
        "                model: its timeline shows the inference\n"
        "  Deployments   magika on both fleets, agent by agent\n"
        "  Kill switch   revoke an agent, and see how many milliseconds it takes\n"
        "  Ledger        what you did just now is in it, signed\n"
        "\nCtrl-C stops it.\n"
    )
