"""`tensorguard admin publisher`: whose packages this platform's agents believe."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.cli.database import OPERATOR, DataDir, Json, find_database_url, in_transaction
from tensorguard.cli.first_start import ROOT_KEYS_DIRECTORY
from tensorguard.cli.supervisor.place import default_data_directory
from tensorguard.services.publishers import register_publisher, revoke_publisher
from tensorguard.services.rootkeys import load_root_directory
from tensorguard.services.trust import publish_next

app = typer.Typer(no_args_is_help=True, help="Keys that may sign packages.")
RootKeys = Annotated[
    Path | None,
    typer.Option(
        "--root-keys",
        help="The directory of the root keys, which sign the trust bundle.",
        show_default="root-keys in the data directory",
    ),
]


@app.command("register")
def register(
    name: Annotated[str, typer.Option(help="Who they are.")],
    key: Annotated[
        Path, typer.Option(help="Their Ed25519 public key, PEM.", exists=True, dir_okay=False)
    ],
    names: Annotated[
        list[str], typer.Option(help="A package name that they may sign; * at its end is a prefix.")
    ],
    ttl_days: Annotated[int, typer.Option(min=1, max=3650, help="When the key ends.")] = 1095,
    root_keys: RootKeys = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a key sign packages: here at once, on agents with the next trust bundle."""
    roots = load_root_directory(_root_directory(root_keys, data_dir))
    now = datetime.now(UTC)

    async def work(session: AsyncSession) -> tuple[str, int]:
        publisher = await register_publisher(
            session,
            name=name,
            public_pem=key.read_text(),
            names=names,
            not_after=now + timedelta(days=ttl_days),
            by=OPERATOR,
            now=now,
        )
        bundle = await publish_next(session, roots, by=OPERATOR, now=now)
        return publisher.kid, bundle.version

    kid, version = asyncio.run(in_transaction(find_database_url(data_dir), work))
    facts = {"kid": kid, "trust_version": version}
    typer.echo(json.dumps(facts) if as_json else f"{kid}  trust bundle {version}")


@app.command("revoke")
def revoke(
    kid: Annotated[str, typer.Argument(metavar="KID", help="The key's id.")],
    reason: Annotated[str, typer.Option(help="Stands in the ledger.")],
    root_keys: RootKeys = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a key's signature count no more."""
    roots = load_root_directory(_root_directory(root_keys, data_dir))
    now = datetime.now(UTC)

    async def work(session: AsyncSession) -> int:
        await revoke_publisher(session, kid, reason=reason, by=OPERATOR, now=now)
        return (await publish_next(session, roots, by=OPERATOR, now=now)).version

    version = asyncio.run(in_transaction(find_database_url(data_dir), work))
    facts = {"kid": kid, "trust_version": version}
    typer.echo(json.dumps(facts) if as_json else f"revoked {kid}  trust bundle {version}")


def _root_directory(given: Path | None, data_dir: Path | None) -> Path:
    return given or (data_dir or default_data_directory()) / ROOT_KEYS_DIRECTORY
