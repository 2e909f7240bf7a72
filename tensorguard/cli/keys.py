"""`tensorguard keys`: KEKs and their providers, on the platform's own machine.

`wrap-for-import` alone needs no platform: it runs where the customer's key material is.
"""

import asyncio
import base64
import json
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import typer

from tensorguard.cli.database import OPERATOR, DataDir, Json, find_database_url
from tensorguard.cli.supervisor.place import default_data_directory
from tensorguard.cli.telling import new_teller
from tensorguard.services import kek_changes, rewrap_jobs
from tensorguard.services.errors import Invalid
from tensorguard.services.kek_providers import KekProviders, KekSettings
from tensorguard.services.keks import (
    Kek,
    count_all_secrets,
    get_active_kek,
    get_kek,
    list_keks,
    list_versions,
)
from tensorguard.services.rewrap_jobs import DEFAULT_PER_SECOND, MAX_PER_SECOND, RewrapJob
from tensorguard.services.rewrapping import Rewrapper
from tensorguard.store.engine import SessionMaker, check_schema, create_engine, session_maker
from tensorguard.vault.errors import ImportRefused, VaultError
from tensorguard.vault.private_file import create_private, read_private
from tensorguard.vault.provider import ImportParameters
from tensorguard.vault.reference import KekReference

app = typer.Typer(no_args_is_help=True, help="Keys that wrap keys (KEKs), and their providers.")
T = TypeVar("T")
_FILE_LIMIT_BYTES: Final = 64 * 1024
_SHOWN: Final = (
    "fleet",
    "provider",
    "key_id",
    "origin",
    "state",
    "key_version",
    "key_state",
    "trouble_code",
    "trouble_reason",
)

KekId = Annotated[
    str,
    typer.Argument(metavar="[KEK]", help="A KEK's id, or a fleet's slug; nothing: the platform's."),
]
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
        return [_facts(one, secrets=counts[one.id]) for one in found]

    rows = _run(data_dir, work)
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
            found = await _find(session, kek)
            await kek_changes.describe_kek(session, keks, found.id, now=_now())
        async with sessions() as session:
            found = await get_kek(session, found.id)
            versions = await list_versions(session, found)
            left = await rewrap_jobs.count_misplaced(session, found)
        listed = [
            {"version": one.version, "state": one.state, "secrets": one.secrets} for one in versions
        ]
        return _facts(found, versions=listed, misplaced=left)

    facts = _run(data_dir, work)
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
            found = await _find(session, kek)
            done = await kek_changes.rotate_kek(session, keks, found.id, by=OPERATOR, now=_now())
            left = await rewrap_jobs.count_misplaced(session, done)
        return _facts(done, misplaced=left)

    facts = _run(data_dir, work)
    _print(
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
            found = await _find(session, kek)
            return await rewrap_jobs.start_rewrap(
                session, found, per_second=per_second, by=OPERATOR, now=_now()
            )

    _run(data_dir, lambda sessions, keks: _move(sessions, keks, start, as_json=as_json))


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
            taken = await kek_changes.take_over(session, keks, reference, by=OPERATOR, now=_now())
            return await rewrap_jobs.start_rewrap(
                session, taken, kind="migrate", per_second=per_second, by=OPERATOR, now=_now()
            )

    _run(
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
            return _facts(
                await kek_changes.add_fleet_kek(
                    session, keks, fleet, reference, by=OPERATOR, now=_now()
                )
            )

    facts = _run(data_dir, work)
    _print(facts, as_json, f"fleet {fleet} is under {facts['reference']} (KEK {facts['id']})")


@app.command("remove")
def remove(kek: KekId, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Put a fleet under the platform's KEK again; the key itself is not touched."""

    async def work(sessions: SessionMaker, keks: KekProviders) -> dict[str, Any]:
        async with sessions.begin() as session:
            found = await _find(session, kek)
            return _facts(
                await kek_changes.remove_fleet_kek(session, found.id, by=OPERATOR, now=_now())
            )

    facts = _run(data_dir, work)
    _print(facts, as_json, f"fleet {facts['fleet']} is under the platform's KEK")


@app.command("import")
def import_command(
    kek: KekId = "",
    parameters: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write the public key to wrap material with, here."),
    ] = None,
    wrapped: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Import what wrap-for-import has written."),
    ] = None,
    expires: Annotated[
        datetime | None, typer.Option(help="When the material ends, UTC; it is watched.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Bring key material: first --parameters FILE, then, wrapped elsewhere, --wrapped FILE."""
    if (parameters is None) == (wrapped is None):
        raise Invalid("give either --parameters or --wrapped", hint="Begin with --parameters FILE.")

    async def ask(sessions: SessionMaker, keks: KekProviders) -> ImportParameters:
        async with sessions.begin() as session:
            found = await _find(session, kek)
            return await kek_changes.get_import_parameters(session, keks, found.id)

    async def bring(sessions: SessionMaker, keks: KekProviders) -> dict[str, Any]:
        assert wrapped is not None
        given = _read_wrapped(wrapped)
        async with sessions.begin() as session:
            found = await _find(session, kek)
            if (given["provider"], given["key_id"]) != (found.provider, found.key_id):
                raise ImportRefused("the material was wrapped for another key")
            done = await kek_changes.import_material(
                session,
                keks,
                found.id,
                base64.b64decode(given["wrapped"]),
                token=given["token"],
                expires_at=expires and expires.replace(tzinfo=UTC),
                by=OPERATOR,
                now=_now(),
            )
        return _facts(done)

    if parameters is not None:
        found = _run(data_dir, ask)
        document = {
            name: getattr(found, name)
            for name in ("provider", "key_id", "algorithm", "public_key_pem", "token", "material")
        }
        document["valid_until"] = found.valid_until.isoformat()
        parameters.write_text(json.dumps(document, indent=1) + "\n")
        _print(
            {"written": str(parameters), "valid_until": document["valid_until"]},
            as_json,
            f"{parameters} is good until {document['valid_until']}; where the material is:\n"
            f"  tensorguard keys wrap-for-import {parameters} --material FILE --out wrapped.json",
        )
        return
    facts = _run(data_dir, bring)
    _print(facts, as_json, f"version {facts['key_version']} is the imported material")


@app.command("wrap-for-import")
def wrap_for_import(
    parameters: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Of 'keys import --parameters'.")
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="What goes back to the platform.")],
    material: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="32 raw bytes, or an RSA key (PEM)."),
    ] = None,
    generate: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Make the material, and write it here: keep it safe."),
    ] = None,
) -> None:
    """Wrap key material so that only the named provider can read it. Needs no network."""
    from tensorguard.vault.wrapping import wrap_material

    if (material is None) == (generate is None):
        raise Invalid("give either --material or --generate", hint="Which key is it to be?")
    given = _read_parameters(parameters)
    if generate is not None:
        secret = _make_material(given.material)
        if not create_private(generate, secret):
            raise Invalid(f"{generate} exists already", hint="No key is overwritten.")
    else:
        assert material is not None
        secret = read_private(material, _FILE_LIMIT_BYTES)
    document = {
        "provider": given.provider,
        "key_id": given.key_id,
        "token": given.token,
        "wrapped": base64.b64encode(wrap_material(given, secret)).decode(),
    }
    out.write_text(json.dumps(document, indent=1) + "\n")
    typer.echo(f"{out} may be sent: only {given.provider} can read what is in it")


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
            found = await _find(session, kek)
            await kek_changes.set_version_enabled(
                session, keks, found.id, version, enabled=enabled, by=OPERATOR, now=_now()
            )

    _run(data_dir, work)
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
    rewrapper = Rewrapper(sessions, keks, _now)
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


def _run(
    data_dir: Path | None,
    work: Callable[[SessionMaker, KekProviders], Awaitable[T]],
    *,
    check_expected: bool = True,
) -> T:
    """Run `work` on the platform of the data directory, beside its services."""
    url, directory = find_database_url(data_dir), data_dir or default_data_directory()
    settings = KekSettings()

    async def run() -> T:
        engine = create_engine(url, service="keys", pool_size=2)
        sessions = session_maker(engine)
        try:
            await check_schema(engine)
            async with sessions() as session:
                keks = await KekProviders.load(
                    session,
                    settings.opener(directory),
                    expected=settings.kek if check_expected else "",
                )
            try:
                return await work(sessions, keks)
            finally:
                await keks.close()
        finally:
            await engine.dispose()

    return asyncio.run(run())


async def _find(session: Any, text: str) -> Kek:
    """Return the KEK of this id, of this fleet, or of the platform."""
    try:
        return await get_kek(session, UUID(text))
    except ValueError:
        return await get_active_kek(session, text or None)


def _facts(kek: Kek, **more: Any) -> dict[str, Any]:
    return {
        "id": str(kek.id),
        "reference": f"{kek.provider}:{kek.key_id}",
        **{name: getattr(kek, name) for name in _SHOWN},
        "expires_at": kek.expires_at and kek.expires_at.isoformat(),
        **more,
    }


def _print(facts: dict[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json.dumps(facts) if as_json else text)


def _now() -> datetime:
    return datetime.now(UTC)


def _read_wrapped(path: Path) -> dict[str, str]:
    document = _read_document(path)
    if not {"provider", "key_id", "token", "wrapped"} <= document.keys():
        raise ImportRefused(f"{path} is not what wrap-for-import writes")
    return document


def _read_parameters(path: Path) -> ImportParameters:
    document: dict[str, Any] = dict(_read_document(path))
    try:
        document["valid_until"] = datetime.fromisoformat(document["valid_until"])
        found = ImportParameters(**document)
    except (KeyError, TypeError, ValueError):
        raise ImportRefused(f"{path} holds no import parameters") from None
    if found.valid_until <= _now():
        raise ImportRefused(f"the import parameters expired {found.valid_until.isoformat()}")
    return found


def _read_document(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        raw = file.read(_FILE_LIMIT_BYTES)
    try:
        document = json.loads(raw)
    except ValueError:
        document = None
    if not isinstance(document, dict) or not all(isinstance(v, str) for v in document.values()):
        raise ImportRefused(f"{path} is not a document of 'tensorguard keys'")
    return document


def _make_material(kind: str) -> bytes:
    if kind == "aes-256":
        return os.urandom(32)
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
