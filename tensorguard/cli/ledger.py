"""`tensorguard ledger`: verify an export anywhere; export, keys and epochs beside the platform."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # `verify` runs where there is no database library
    from sqlalchemy.ext.asyncio import AsyncSession

    from tensorguard.services.evidence.exporting import ExportRequest

app = typer.Typer(no_args_is_help=True, help="The Evidence Locker: verify, export, keys, epochs.")
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="TG_DATA_DIR", help="Where 'tensorguard up' keeps all."),
]
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command(
    "verify",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def verify(context: typer.Context) -> None:
    """Verify an export, offline: EXPORT --key VKEY [--key VKEY] [--since CHECKPOINT] [--json]."""
    from tensorguard.ledger.verify import run

    raise typer.Exit(run(context.args))


@app.command("export")
def export(
    out: Annotated[Path, typer.Option("--out", dir_okay=False, help="The file to write.")],
    start: Annotated[int, typer.Option(min=0, help="The first entry.")] = 0,
    end: Annotated[int | None, typer.Option(min=0, help="Exclusive; all, unless given.")] = None,
    type_: Annotated[
        list[str] | None,
        typer.Option("--type", help="Types, or their dotted beginnings; repeatable."),
    ] = None,
    fleet: Annotated[str | None, typer.Option(help="Only of this fleet.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only of what has this id.")] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Types that are left out; repeatable.")
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Only by who has this id.")] = None,
    outcome: Annotated[
        list[str] | None, typer.Option(help="success, failure or denied; repeatable.")
    ] = None,
    not_before: Annotated[
        datetime | None, typer.Option(formats=TIMES, help="Since this time (UTC), inclusive.")
    ] = None,
    before: Annotated[
        datetime | None, typer.Option(formats=TIMES, help="Until this time (UTC), exclusive.")
    ] = None,
    since: Annotated[
        int | None, typer.Option(min=1, help="Prove consistency with the tree of this size.")
    ] = None,
    epoch: Annotated[int | None, typer.Option(min=1, help="The present one, unless given.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write entries, the signed checkpoint and proofs as zstd NDJSON, for 'ledger verify'."""
    from tensorguard.services.evidence.exporting import ExportRequest
    from tensorguard.services.evidence.filters import EntryFilter

    request = ExportRequest(
        epoch=epoch,
        start=start,
        end=end,
        only=EntryFilter(
            type_prefixes=type_ or (),
            without=without or (),
            fleet=fleet,
            subject_id=subject,
            actor_id=actor,
            outcomes=outcome or (),
            not_before=_utc(not_before),
            before=_utc(before),
        ),
        since=since,
    )
    size = asyncio.run(_export(_url(data_dir), request, out))
    _print({"file": str(out), "size_bytes": size}, f"{out}: {size:,} bytes", as_json=as_json)


@app.command("new-epoch")
def new_epoch(
    reason: Annotated[str, typer.Option(help="Why, for the ledger: it is its first entry.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="The last note that is known of, of whoever kept it."
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Go on after a restore that lost signed entries, in a tree of its own."""
    from tensorguard.cli.database import OPERATOR
    from tensorguard.cli.supervisor.place import default_data_directory
    from tensorguard.services.evidence.checkpoint_file import checkpoint_file, read_note
    from tensorguard.services.evidence.epochs import NewEpoch, begin_epoch

    directory = data_dir or default_data_directory()
    note = read_note(checkpoint or checkpoint_file(directory))

    async def work(session: "AsyncSession") -> NewEpoch:
        return await begin_epoch(
            session, reason=reason, last_note=note, by=OPERATOR, now=datetime.now(UTC)
        )

    begun: NewEpoch = asyncio.run(_in_transaction(directory, work))
    facts = {"epoch": begun.number, "origin": begun.origin, "held": begun.held}
    _print(facts, f"{begun.origin} has begun; {begun.held} entries before it", as_json=as_json)


@app.command("rotate-key")
def rotate_key(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Let a new key sign checkpoints beside the present one; 'retire-key' ends the overlap."""
    from tensorguard.cli.database import OPERATOR
    from tensorguard.cli.key_platform import run_on_platform
    from tensorguard.services.evidence.signing_keys import LedgerKey, begin_key_rotation

    async def work(sessions: Any, keks: Any) -> LedgerKey:
        async with sessions.begin() as session:
            return await begin_key_rotation(session, keks, by=OPERATOR, now=datetime.now(UTC))

    made = run_on_platform(data_dir, work)
    text = f"{made.verifier}\nNow publish a trust bundle: 'tensorguard trust draft'."
    _print({"kid": made.kid, "verifier_key": str(made.verifier)}, text, as_json=as_json)


@app.command("retire-key")
def retire_key(
    leave: Annotated[
        bool, typer.Option("--leave", help="Give up agents that do not know the new key yet.")
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Retire the older of two keys that sign checkpoints."""
    from tensorguard.cli.database import OPERATOR, find_database_url, in_transaction
    from tensorguard.services.evidence.signing_keys import LedgerKey, end_key_rotation

    async def work(session: "AsyncSession") -> LedgerKey:
        return await end_key_rotation(session, by=OPERATOR, now=datetime.now(UTC), leave=leave)

    gone: LedgerKey = asyncio.run(in_transaction(find_database_url(data_dir), work))
    _print({"retired": gone.kid}, f"retired {gone.verifier}", as_json=as_json)


@app.command("erase")
def erase(
    kind: Annotated[str, typer.Argument(help="Of the subject, such as user.")],
    id_: Annotated[str, typer.Argument(metavar="ID", help="The subject's id.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Destroy the keys of a subject's private fields: nobody can read them any more."""
    from tensorguard.cli.database import OPERATOR, find_database_url, in_transaction
    from tensorguard.services.evidence.private_fields import erase_subject

    async def work(session: "AsyncSession") -> int:
        return await erase_subject(session, kind, id_, by=OPERATOR, now=datetime.now(UTC))

    keys: int = asyncio.run(in_transaction(find_database_url(data_dir), work))
    _print({"keys": keys}, f"{keys} keys destroyed", as_json=as_json)


async def _export(url: str, request: "ExportRequest", out: Path) -> int:
    from tensorguard.services.evidence.exporting import export_compressed
    from tensorguard.store.engine import check_schema, create_engine, session_maker

    engine = create_engine(url, service="export", pool_size=1)
    try:
        await check_schema(engine)
        async with session_maker(engine)() as session:
            return await _write(out, export_compressed(session, request))
    finally:
        await engine.dispose()


async def _write(out: Path, chunks: AsyncIterator[bytes]) -> int:
    partial = out.with_name(f".{out.name}.partial")
    size = 0
    try:
        with partial.open("wb") as file:
            async for chunk in chunks:
                size += await asyncio.to_thread(file.write, chunk)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return size


async def _in_transaction(directory: Path, work: Any) -> Any:
    """Run `work` on the platform's database; an embedded one that stands still is started."""
    from tensorguard.cli.database import find_database_url, in_transaction
    from tensorguard.store.embedded.server import EmbeddedPostgres
    from tensorguard.store.errors import DatabaseUnreachable

    try:
        url = find_database_url(directory)
    except DatabaseUnreachable:
        if not (directory / "postgres").is_dir():
            raise
        server = EmbeddedPostgres(directory / "postgres")
        await server.start()
        try:
            return await in_transaction(server.app_url, work)
        finally:
            await server.stop()
    return await in_transaction(url, work)


def _utc(given: datetime | None) -> datetime | None:
    return None if given is None else given.replace(tzinfo=UTC)


def _url(data_dir: Path | None) -> str:
    from tensorguard.cli.database import find_database_url

    return find_database_url(data_dir)


def _print(facts: dict[str, Any], text: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(facts) if as_json else text)
