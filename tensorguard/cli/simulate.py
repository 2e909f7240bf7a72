"""`tensorguard simulate`: many agents in one process, against a real platform."""

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from platformdirs import user_data_path

from simulators.behaviour import Behaviour, read_behaviour
from simulators.packages import DownloadMode
from simulators.simulation import Plan, Simulation
from tensorguard.cli import lifeline
from tensorguard.cli.durations import parse_seconds
from tensorguard.protocol.join import parse_join

app = typer.Typer(add_completion=False, help="Run simulated agents against a platform.")


def _parse_tags(tags: list[str]) -> dict[str, str]:
    pairs = [tag.partition("=") for tag in tags]
    if any(not separator or not key for key, separator, _ in pairs):
        raise typer.BadParameter("a tag is key=value", param_hint="--tags")
    return {key: value for key, _, value in pairs}


def _default_state(fleet: str | None, url: str | None) -> Path:
    root = user_data_path("tensorguard-simulators", appauthor=False)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        root = Path("/var/lib/tensorguard-simulators")
    where = re.sub(r"[^a-z0-9.-]+", "-", f"{url or 'join'}-{fleet or 'any'}".lower())
    return root / where


@app.command()
def simulate(
    agents: Annotated[int, typer.Option(min=1, max=19_000, help="How many.")] = 10,
    fleet: Annotated[str | None, typer.Option(help="Made if it is missing.")] = None,
    interval: Annotated[
        float | None,
        typer.Option(parser=parse_seconds, metavar="TIME", help="Between heartbeats: 10s."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed simulates the same.")] = 1,
    events_per_minute: Annotated[float, typer.Option(min=0, help="Of each agent.")] = 0.0,
    url: Annotated[
        str | None,
        typer.Option(envvar="TG_URL", help="The platform, such as http://127.0.0.1:8080."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="TG_API_KEY", help="An API key of role admin: tg_…")
    ] = None,
    join: Annotated[str | None, typer.Option(help="A join string instead of URL and key.")] = None,
    duration: Annotated[
        float | None,
        typer.Option(parser=parse_seconds, metavar="TIME", help="Stop by itself after this."),
    ] = None,
    drain: Annotated[
        float,
        typer.Option(parser=parse_seconds, metavar="TIME", help="Wait for acks at the end."),
    ] = "30s",  # type: ignore[assignment]  # typer parses the default, too
    connects_per_second: Annotated[float, typer.Option(min=0.1)] = 100.0,
    tags: Annotated[list[str] | None, typer.Option(help="key=value, repeatable.")] = None,
    download: Annotated[
        DownloadMode, typer.Option(help="How much of a package is really handled.")
    ] = DownloadMode.real,
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keeps the identities for the next run.")
    ] = None,
    acked_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Appends each acked event as it is acked.")
    ] = None,
    behaviour: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="How agents fail, by phase and version (JSON)."),
    ] = None,
    source_address: Annotated[
        str | None, typer.Option(metavar="IP", help="Connect from this address: 127.0.0.2.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run simulated agents until --duration, SIGTERM or Ctrl-C; then drain and sum up."""
    plan = Plan(
        agents=agents,
        state=state or _default_state(fleet, url),
        fleet=fleet,
        join=None if join is None else parse_join(join),
        url=url,
        api_key=api_key,
        interval_s=interval,
        events_per_minute=events_per_minute,
        seed=seed,
        duration_s=duration,
        drain_s=drain,
        connects_per_s=connects_per_second,
        tags=_parse_tags(tags or []),
        download=download,
        acked_log=acked_log,
        source=source_address,
        behaviour=Behaviour() if behaviour is None else read_behaviour(behaviour),
    )
    lifeline.end_with_parent()
    summary = _run(plan, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        _print(summary)


def _run(plan: Plan, *, quiet: bool) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        simulation = Simulation(plan, _ignore if quiet else _say)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, simulation.stop)
        return await simulation.run()

    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    return uvloop.run(main())


def _ignore(line: str) -> None:
    pass


def _say(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()
    else:
        typer.echo(line, err=True)


def _print(summary: dict[str, Any]) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    for key, value in summary.items():
        shown = json.dumps(value) if isinstance(value, dict) else "-" if value is None else value
        typer.echo(f"{key:22} {shown}")
