"""`tensorguard db`: the schema of a database that somebody else runs."""

import json
from typing import Annotated

import typer

from tensorguard.store.maintenance import maintain
from tensorguard.store.migrate import upgrade

app = typer.Typer(no_args_is_help=True, help="Bring a database to this version's schema.")
OwnerUrl = Annotated[
    str,
    typer.Option(
        envvar="TG_DATABASE_OWNER_URL",
        show_envvar=True,
        help="URL of the database for the role that owns it (tg_owner).",
    ),
]


@app.command("upgrade")
def upgrade_schema(
    owner_url: OwnerUrl,
    as_json: Annotated[bool, typer.Option("--json", help="Errors as JSON.")] = False,
) -> None:
    """Run the migrations that this version has and the database has not."""
    upgrade(owner_url)


@app.command("maintain")
def maintain_partitions(
    owner_url: OwnerUrl,
    as_json: Annotated[bool, typer.Option("--json", help="Result and errors as JSON.")] = False,
) -> None:
    """Make the heartbeat partitions of the coming days and drop the expired ones; run it hourly."""
    done = maintain(owner_url)
    if as_json:
        typer.echo(json.dumps({"made": done.made, "dropped": done.dropped}))
        return
    for verb, names in (("made", done.made), ("dropped", done.dropped)):
        typer.echo(f"{verb}: {', '.join(names) or 'nothing'}")
