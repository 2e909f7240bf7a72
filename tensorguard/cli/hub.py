"""`tensorguard hub`: the process that reads from agents and writes to the database."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from hub.main import run as run_hub
from hub.replay import replay_since
from hub.settings import HubSettings
from tensorguard.cli import lifeline
from tensorguard.cli.database import Json
from tensorguard.cli.durations import parse_seconds
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


@app.command()
def replay(
    since: Annotated[
        str, typer.Option(metavar="AGO|TIME", help="How long ago, such as 2h, or an RFC 3339 time.")
    ],
    as_json: Json = False,
) -> None:
    """Have all hubs read again what came since then; what is stored already stays as it is."""
    settings = HubSettings()  # type: ignore[call-arg] # pydantic reads the environment
    begin = _moment(since)
    partitions, messages = asyncio.run(replay_since(settings, begin))
    facts = {"since": begin.isoformat(), "partitions": partitions, "messages": messages}
    typer.echo(
        json.dumps(facts) if as_json else f"{messages} messages since {begin} will be read again"
    )


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC) - timedelta(seconds=parse_seconds(text))
    if moment.tzinfo is None:
        raise typer.BadParameter("a time needs its offset, such as 2026-03-01T12:00:00Z")
    return moment


async def _serve(settings: HubSettings) -> None:
    stop = asyncio.Event()
    lifeline.install(stop)
    await run_hub(settings, stop, lifeline.notify_ready)
