"""`tensorguard keys`: KEKs and their providers, on the platform's own machine."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tensorguard.cli.database import OPERATOR, DataDir, Json
from tensorguard.cli.key_import import app as key_import
from tensorguard.cli.key_platform import (
    KekId,
    facts_of,
    find_kek,
    print_facts,
    run_on_platform,
    utc_now,
)
from tensorguard.cli.telling import new_teller
from tensorguard.services.keys import kek_changes, rewrap_jobs
from tensorguard.services.keys.kek_providers import KekProviders
from tensorguard.services.keys.keks import (
    count_all_secrets,
    get_kek,
    list_keks,
    list_versions,
)
from tensorguard.services.keys.rewrap_jobs import DEFAULT_PER_SECOND, MAX_PER_SECOND, RewrapJob
from tensorguard.services.keys.rewrapping import Rewrapper
from tensorguard.store.engine import SessionMaker
from tensorguard.vault.errors import VaultError
from tensorguard.vault.reference import KekReference

app = typer.Typer(no_args_is_help=True, help="Keys that wrap keys (KEKs), and their providers.")
app.add_typer(key_import)

PerSecond = Annotated[
    int, typer.Option(min=1, max=MAX_PER_SECOND, help="How many secrets a second are moved.")
]


@app.command("list")
def list_command(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List every KEK with its state and how many secrets are under it."""

    async def work(sessions: SessionMaker, keks: KekProviders) -> list[dict[str, Any]]:
        async with sessions() as session:
            found = await list_keks(session)
            counts = await count_all_secrets(session, found)
        return [facts_of(one, secrets=counts[one.id]) for one in found]

    rows = run_on_platform(data_dir, work)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        trouble = f"  {row['trouble_code']}: {row['trouble_reason']}" if row["trouble_code"] else ""
        typer.echo(
            f"{row['id']}  {row['state']:8}  {row['fleet'] or 'platform'}  {row['reference']}"
            f"  version {row['key_version']}  {row['secrets']} secrets{trouble}"
        )


@app.command("describe")
def describe(kek: KekId = "", data_dir: DataDir = None, as_json: Json = False) -> None:
    """Ask a KEK's provider how it is, and list its versions."""

    async def work(sessions: SessionMaker, keks: KekProviders) -> dict[str, Any]:
        async with sessions.begin() as session:
            found = await find_kek(session, kek)
            await kek_changes.describe_kek(session, keks, found.id, now=utc_now())
        async with sessions() as session:
            found = await get_kek(session, found.id)
            versions = await list_versions(session, found)
            left = await rewrap_jobs.count_misplaced(session, found)
        listed = [
            {"version": one.version, "state": one.state, "secrets": one.secrets} for one in versions
        ]
        return facts_of(found, versions=listed, misplaced=left)

    facts = run_on_platform(data_dir, work)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"{facts['reference']}  {facts['key_state']}  (KEK {facts['id']})")
    for one in facts["versions"]:
        mark = "*" if one["version"] == facts["key_version"] else " "
        typer.echo(f" {mark} version {one['version']}  {one['state']}  {one['secrets']} secrets")
    if facts["expires_at"]:
        typer.echo(f"   imported material expires {facts['expires_at']}")
    if facts["misplaced"]:
        typer.echo(f"   {facts['misplaced']} secrets to rewrap: tensorguard keys rewrap {kek}")


@app.command("rotate")
def rotate(kek: KekId = "", data_dir: DataDir = None, as_json: Json = False) -> None:
    """Make a new version of a KEK, which new secrets are wrapped under."""

    async def work(sessions: SessionMaker, keks: KekProviders) -> dict[str, Any]:
        async with sessions.begin() as session:
            found = await find_kek(session, kek)
            done = await kek_changes.rotate_kek(session, keks, found.id, by=OPERATOR, now=utc_now())
            left = await rewrap_jobs.count_misplaced(session, done)
        return facts_of(done, misplaced=left)

    facts = run_on_platform(data_dir, work)
    print_facts(
        facts,
        as_json,
        f"version {facts['key_version']} wraps from now on;"
        f" {facts['misplaced']} secrets to rewrap: tensorguard keys rewrap {kek}",
    )


@app.command("rewrap")
def rewrap(
    kek: KekId = "",
    per_second: PerSecond = DEFAULT_PER_SECOND,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Move every secret under the present version of its KEK; goes on where it was interrupted."""

    async def start(sessions: SessionMaker, keks: KekProviders) -> RewrapJob:
        async with sessions.begin() as session:
            found = await find_kek(session, kek)
            return await rewrap_jobs.start_rewrap(
                session, found, per_second=per_second, by=OPERATOR, now=utc_now()
            )

    run_on_platform(data_dir, lambda sessions, keks: _move(sessions, keks, start, as_json=as_json))


@app.command("migrate")
def migrate(
    to: Annotated[str, typer.Option("--to", help="local, aws:ARN, azure:URL or gcp:RESOURCE.")],
    per_second: PerSecond = DEFAULT_PER_SECOND,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Move everything of the platform to another key, of any provider, while it runs.

    Interrupted, it goes on when it is run again, or by the hub. The former key is retired when
    nothing is under it any more.
    """
    reference = KekReference.parse(to)

    async def start(sessions: SessionMaker, keks: KekProviders) -> RewrapJob:
        async with sessions.begin() as session:
            taken = await kek_changes.take_over(
                session, keks, reference, by=OPERATOR, now=utc_now()
            )
            return await rewrap_jobs.start_rewrap(
                session, taken, kind="migrate", per_second=per_second, by=OPERATOR, now=utc_now()
            )

    run_on_platform(
        data_dir,
        lambda sessions, keks: _move(sessions, keks, start, as_json=as_json),
        check_expected=False,
    )


@app.command("add")
def add(
    fleet: Annotated[str, typer.Option(help="The fleet whose DEKs go under it.")],
    key: Annotated[
        str, typer.Option(help="aws:ARN, azure:URL, gcp:RESOURCE; local: to be imported into.")
    ],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Put a fleet under a key of its owner's (BYOK), in the place of the one that it has."""
    reference = KekReference.parse(key)

    async def work(sessions: SessionMaker, keks: KekProviders) -> dict[str, Any]:
        async with sessions.begin() as session:
            return facts_of(
                await kek_changes.add_fleet_kek(
                    session, keks, fleet, reference, by=OPERATOR, now=utc_now()
                )
            )

    facts = run_on_platform(data_dir, work)
    print_facts(facts, as_json, f"fleet {fleet} is under {facts['reference']} (KEK {facts['id']})")


@app.command("remove")
def remove(kek: KekId, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Put a fleet under the platform's KEK again; the key itself is not touched."""

    async def work(sessions: SessionMaker, keks: KekProviders) -> dict[str, Any]:
        async with sessions.begin() as session:
            found = await find_kek(session, kek)
            return facts_of(
                await kek_changes.remove_fleet_kek(session, found.id, by=OPERATOR, now=utc_now())
            )

    facts = run_on_platform(data_dir, work)
    print_facts(facts, as_json, f"fleet {facts['fleet']} is under the platform's KEK")


@app.command("disable")
def disable(
    kek: KekId, version: Annotated[str, typer.Argument()], data_dir: DataDir = None
) -> None:
    """Disable a version that no secret is under any more."""
    _set_enabled(data_dir, kek, version, enabled=False)


@app.command("enable")
def enable(kek: KekId, version: Annotated[str, typer.Argument()], data_dir: DataDir = None) -> None:
    """Enable a disabled version."""
    _set_enabled(data_dir, kek, version, enabled=True)


def _set_enabled(data_dir: Path | None, kek: str, version: str, *, enabled: bool) -> None:
    async def work(sessions: SessionMaker, keks: KekProviders) -> None:
        async with sessions.begin() as session:
            found = await find_kek(session, kek)
            await kek_changes.set_version_enabled(
                session, keks, found.id, version, enabled=enabled, by=OPERATOR, now=utc_now()
            )

    run_on_platform(data_dir, work)
    typer.echo(f"version {version} is {'enabled' if enabled else 'disabled'}")


async def _move(
    sessions: SessionMaker,
    keks: KekProviders,
    start: Callable[[SessionMaker, KekProviders], Awaitable[RewrapJob]],
    *,
    as_json: bool,
) -> None:
    """Start a job, or join the one that runs, and work on it until it ends. Raises: VaultError."""
    job = await start(sessions, keks)
    stop = asyncio.Event()
    rewrapper = Rewrapper(sessions, keks, utc_now)
    with new_teller(as_json=as_json) as teller:

        def tell(now: RewrapJob) -> None:
            teller.count("rewrapped", "secrets moved", now.moved, max(now.total, now.moved))

        while job.state == "running":
            job = await rewrapper.work_on(job.id, stop, tell)
            if job.state == "running":  # another works on it, or the provider wants a pause
                tell(job)
                await asyncio.sleep(1)
        if job.state == "done":
            teller.say("done", f"{job.moved} secrets moved", moved=job.moved, job=str(job.id))
    if job.state == "failed":
        raise RewrapFailed(f"{job.moved} secrets moved; then: {job.reason} [{job.code}]")


class RewrapFailed(VaultError):
    """A job ended before everything was moved."""

    code = "rewrap-failed"
    hint = "Nothing is lost: mend the cause, and run the command again."
