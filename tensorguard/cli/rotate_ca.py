"""`tensorguard trust rotate-ca`: a new platform CA, without an agent lost.

Every step is a transaction of its own, and what has been done stands in the database: a command
that was killed, or has given up waiting, is repeated and goes on.
"""

import asyncio
import math
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from tensorguard.cli.database import DataDir, Json, find_database_url
from tensorguard.cli.durations import parse_seconds
from tensorguard.cli.root_keys import RootDir, root_directory
from tensorguard.cli.rotation import Plan, Rotator
from tensorguard.cli.supervisor.place import default_data_directory
from tensorguard.cli.telling import new_teller

_PATIENCE_S = 15 * 60.0


def rotate_ca(
    within: Annotated[
        float,
        typer.Option(
            parser=parse_seconds,
            metavar="TIME",
            help="Over how long agents spread their renewals: 10m.",
        ),
    ] = "1h",  # type: ignore[assignment]  # typer parses the default, too
    leave: Annotated[
        list[UUID] | None,
        typer.Option(help="An agent that is given up, by its id; repeatable."),
    ] = None,
    give_up_after: Annotated[
        float | None,
        typer.Option(
            parser=parse_seconds,
            metavar="TIME",
            help="How long to wait for agents.",
            show_default="twice --within and 15m",
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also where the CA was rotated within a day.")
    ] = False,
    draft: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="Where to write a bundle for root keys that are elsewhere."
        ),
    ] = None,
    settle: Annotated[
        float, typer.Option(parser=parse_seconds, metavar="TIME", hidden=True)
    ] = "6s",  # type: ignore[assignment]  # as above
    root_keys: RootDir = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a new CA follow the present one; agents move over to it by renewal.

    Publishes the new CA beside the old, waits until every online agent believes it, lets it issue,
    waits until no active agent holds a certificate of the old one, and retires that. Repeat the
    command if it was interrupted.
    """
    plan = Plan(
        within_s=math.ceil(within),
        leave=frozenset(leave or []),
        patience_s=2 * within + _PATIENCE_S if give_up_after is None else give_up_after,
        settle_s=settle,
        again=again,
        draft=draft,
        root_keys=root_directory(root_keys, data_dir),
        data_dir=data_dir or default_data_directory(),
    )
    with new_teller(as_json=as_json) as teller:
        asyncio.run(Rotator(find_database_url(data_dir), plan, teller).run())
