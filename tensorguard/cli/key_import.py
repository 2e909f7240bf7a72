"""`tensorguard keys import` and `wrap-for-import`: a customer's key material, brought here.

`wrap-for-import` needs no platform: it runs where the material is.
"""

import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tensorguard.cli.database import OPERATOR, DataDir, Json
from tensorguard.cli.key_platform import (
    KekId,
    facts_of,
    find_kek,
    print_facts,
    run_on_platform,
    utc_now,
)
from tensorguard.services.errors import Invalid
from tensorguard.services.keys import kek_changes
from tensorguard.services.keys.kek_providers import KekProviders
from tensorguard.store.engine import SessionMaker
from tensorguard.vault.errors import ImportRefused
from tensorguard.vault.private_file import create_private, read_private
from tensorguard.vault.provider import ImportParameters
from tensorguard.vault.wrapping import wrap_material

app = typer.Typer()
_FILE_LIMIT_BYTES: Final = 64 * 1024


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
            found = await find_kek(session, kek)
            return await kek_changes.get_import_parameters(session, keks, found.id)

    async def bring(sessions: SessionMaker, keks: KekProviders) -> dict[str, Any]:
        assert wrapped is not None
        given = _read_wrapped(wrapped)
        async with sessions.begin() as session:
            found = await find_kek(session, kek)
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
                now=utc_now(),
            )
        return facts_of(done)

    if parameters is not None:
        found = run_on_platform(data_dir, ask)
        document = {
            name: getattr(found, name)
            for name in ("provider", "key_id", "algorithm", "public_key_pem", "token", "material")
        }
        document["valid_until"] = found.valid_until.isoformat()
        parameters.write_text(json.dumps(document, indent=1) + "\n")
        print_facts(
            {"written": str(parameters), "valid_until": document["valid_until"]},
            as_json,
            f"{parameters} is good until {document['valid_until']}; where the material is:\n"
            f"  tensorguard keys wrap-for-import {parameters} --material FILE --out wrapped.json",
        )
        return
    facts = run_on_platform(data_dir, bring)
    print_facts(facts, as_json, f"version {facts['key_version']} is the imported material")


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
    if found.valid_until <= utc_now():
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
