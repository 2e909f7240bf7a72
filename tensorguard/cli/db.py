"""`tensorguard db`: the schema of a database that somebody else runs."""

import json
import re
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import typer

from tensorguard.store.maintenance import configure, maintain
from tensorguard.store.migrate import upgrade

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
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
def maintain_history(
    owner_url: OwnerUrl,
    as_json: Annotated[bool, typer.Option("--json", help="Result and errors as JSON.")] = False,
) -> None:
    """Make partitions ahead, roll heartbeats up, drop what has expired; run it hourly at least."""
    done = maintain(owner_url)
    rolled_up = done.rolled_up
    result: dict[str, Any] = {
        "made": done.made,
        "dropped": done.dropped,
        "rolled_up": {f"rollup_{name}": rows for name, rows in rolled_up.rows.items()},
        "late": {"rolled_up_again": rolled_up.again, "too_late": rolled_up.too_late},
        "finished": rolled_up.finished,
        "applied": done.applied,
    }
    if as_json:
        typer.echo(json.dumps(result))
        return
    for verb, names in (("made", done.made), ("dropped", done.dropped), ("set", done.applied)):
        typer.echo(f"{verb}: {', '.join(names) or 'nothing'}")
    rows = [f"{count:,} rows of {name}" for name, count in result["rolled_up"].items()]
    typer.echo(f"rolled up: {', '.join(rows) or 'nothing'}")
    if not rolled_up.finished:
        typer.echo("There is more to roll up: run it again.")


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]+)(m|h|d)", text.strip())
    if match is None:
        raise typer.BadParameter("a whole number with m, h or d, such as 30d")
    return int(match[1]) * _UNITS[match[2]]


def _setting(help_: str, envvar: str) -> Any:
    return typer.Option(
        parser=_duration, metavar="DURATION", help=help_, envvar=envvar, show_envvar=True
    )


@app.command("settings")
def history_settings(
    owner_url: OwnerUrl,
    heartbeat_partition: Annotated[
        timedelta | None,
        _setting("What one partition covers; 1h for 100,000 agents.", "TG_HEARTBEAT_PARTITION"),
    ] = None,
    heartbeat_retention: Annotated[
        timedelta | None, _setting("How long heartbeats are kept.", "TG_HEARTBEAT_RETENTION")
    ] = None,
    rollup_1m_retention: Annotated[
        timedelta | None, _setting("How long minutes are kept.", "TG_ROLLUP_1M_RETENTION")
    ] = None,
    rollup_1h_retention: Annotated[
        timedelta | None, _setting("How long hours are kept.", "TG_ROLLUP_1H_RETENTION")
    ] = None,
    rollup_1d_retention: Annotated[
        timedelta | None, _setting("How long days are kept.", "TG_ROLLUP_1D_RETENTION")
    ] = None,
    late_heartbeats: Annotated[
        timedelta | None,
        _setting("Heartbeats that come so late are still rolled up.", "TG_LATE_HEARTBEATS"),
    ] = None,
    columnstore_after: Annotated[
        timedelta | None,
        _setting("On TimescaleDB: when heartbeats are compressed.", "TG_COLUMNSTORE_AFTER"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Result and errors as JSON.")] = False,
) -> None:
    """Show how heartbeats and their rollups are kept; set what is given."""
    given = {
        "heartbeat_partition": heartbeat_partition,
        "heartbeat_retention": heartbeat_retention,
        "rollup_1m_retention": rollup_1m_retention,
        "rollup_1h_retention": rollup_1h_retention,
        "rollup_1d_retention": rollup_1d_retention,
        "late_heartbeats": late_heartbeats,
        "columnstore_after": columnstore_after,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    settings = asdict(configure(owner_url, **changes))
    engine = settings.pop("engine")
    if as_json:
        seconds = {f"{name}_s": value.total_seconds() for name, value in settings.items()}
        typer.echo(json.dumps({"engine": engine, **seconds}))
        return
    for name, value in {"engine": engine, **settings}.items():
        typer.echo(f"{name:20} {value}")
