"""`tensorguard admin publisher`: who may sign packages, and the trust bundle that tells agents so.

Runs where the root keys are, which sign the bundle and which no service ever loads.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.cli.database import OPERATOR, DataDir, Json, find_database_url, in_transaction
from tensorguard.cli.first_start import ROOT_KEYS_DIRECTORY
from tensorguard.cli.supervisor.place import default_data_directory
from tensorguard.services.trust import publishers
from tensorguard.services.trust.rootkeys import load_root_directory
from tensorguard.services.trust.trust_publishing import publish_next
from tensorguard.store.packages import Publisher

app = typer.Typer(no_args_is_help=True, help="Keys that may sign packages.")

RootDir = Annotated[
    Path | None,
    typer.Option(
        "--root-keys",
        help="The folder with root-*.key and root-passphrase.",
        show_default="root-keys in the data directory",
    ),
]


@app.command("register")
def register(
    key: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="PREFIX.pub of 'tgsp keygen publisher'."),
    ],
    name: Annotated[str, typer.Option(help="What the publisher is called.")],
    names: Annotated[
        list[str] | None,
        typer.Option(help="A package name it may sign, '*' at the end for a prefix; repeatable."),
    ] = None,
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="For how long.")] = 730,
    root_keys: RootDir = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a key sign packages, and publish the trust bundle with which agents believe it."""
    now = datetime.now(UTC)

    async def work(session: AsyncSession) -> Publisher:
        return await publishers.register_publisher(
            session,
            name=name,
            public_pem=key.read_text(encoding="ascii", errors="replace"),
            names=names or ["*"],
            not_after=now + timedelta(days=valid_days),
            by=OPERATOR,
            now=now,
        )

    _publish(data_dir, root_keys, work, now=now, as_json=as_json)


@app.command("revoke")
def revoke(
    kid: Annotated[str, typer.Argument(help="The publisher's key id.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")],
    root_keys: RootDir = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a key's signature count no more, here at once, on agents with the next trust bundle."""
    now = datetime.now(UTC)

    async def work(session: AsyncSession) -> Publisher:
        return await publishers.revoke_publisher(session, kid, reason=reason, by=OPERATOR, now=now)

    _publish(data_dir, root_keys, work, now=now, as_json=as_json)


def _publish(
    data_dir: Path | None,
    root_keys: Path | None,
    change: Callable[[AsyncSession], Awaitable[Publisher]],
    *,
    now: datetime,
    as_json: bool,
) -> None:
    """Make a change and publish the trust bundle that holds it, in one transaction."""
    folder = root_keys or (data_dir or default_data_directory()) / ROOT_KEYS_DIRECTORY
    signers = load_root_directory(folder)

    async def work(session: AsyncSession) -> tuple[Publisher, int]:
        publisher = await change(session)
        store = await publish_next(session, signers, by=OPERATOR, now=now)
        return publisher, store.version

    publisher, version = asyncio.run(in_transaction(find_database_url(data_dir), work))
    facts: dict[str, Any] = {
        "kid": publisher.kid,
        "name": publisher.name,
        "names": publisher.names,
        "not_after": publisher.not_after.isoformat(),
        "revoked": publisher.revoked_at is not None,
        "trust_version": version,
    }
    text = f"{publisher.kid}  {publisher.name}  (trust bundle {version})"
    typer.echo(json.dumps(facts) if as_json else text)
