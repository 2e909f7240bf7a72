"""`tensorguard packages`: send packages to a platform, from wherever they are built."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from tensorguard.cli.progress import progress_bar
from tensorguard.cli.tus_upload import Platform, send_package

app = typer.Typer(no_args_is_help=True, help="Send packages to a platform.")


@app.callback()
def packages() -> None:
    """Send packages to a platform."""


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .tgsp file.")],
    url: Annotated[str, typer.Option(envvar="TG_URL", help="Where people reach the platform.")],
    ca: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The CA (PEM) of its certificate."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Upload a package, or go on where an upload of it was cut; the API key is TG_API_KEY.

    Ends with what the platform has found: the package's digest, or why it is refused.
    """
    key = os.environ.get("TG_API_KEY", "")
    if not key:
        raise typer.BadParameter("set it to an API key (tg_…)", param_hint="TG_API_KEY")
    with Platform(url, key, ca) as platform, progress_bar("upload", quiet=as_json) as progress:
        package = send_package(platform, file, progress)
    if as_json:
        typer.echo(json.dumps(package))
    else:
        typer.echo(f"{package['digest']}  {package['name']} {package['version']}")
