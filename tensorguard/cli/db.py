"""`tensorguard db`: the schema of a database that somebody else runs."""

from typing import Annotated

import typer

from tensorguard.store.migrate import upgrade

app = typer.Typer(no_args_is_help=True, help="Bring a database to this version's schema.")


@app.command("upgrade")
def upgrade_schema(
    owner_url: Annotated[
        str,
        typer.Option(
            envvar="TG_DATABASE_OWNER_URL",
            show_envvar=True,
            help="URL of the database for the role that owns it (tg_owner).",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Errors as JSON.")] = False,
) -> None:
    """Run the migrations that this version has and the database has not."""
    upgrade(owner_url)
