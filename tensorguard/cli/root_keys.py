"""`tensorguard trust root`: root keys, made and taken away from the platform's machine."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tensorguard.cli.database import DataDir, Json
from tensorguard.cli.first_start import ROOT_KEYS_DIRECTORY
from tensorguard.cli.supervisor.place import default_data_directory
from tensorguard.services.errors import RootKeysUnusable
from tensorguard.services.trust.rootkeys import (
    KEY_PATTERN,
    SealedRootKey,
    find_passphrase,
    load_root_directory,
    load_root_key,
    seal_root_key,
)

app = typer.Typer(no_args_is_help=True, help="Root keys, which sign trust bundles.")
Out = Annotated[
    Path, typer.Option("--out", file_okay=False, help="The directory to write to; a USB stick.")
]
RootDir = Annotated[
    Path | None,
    typer.Option(
        "--root-keys",
        help="The folder with root-*.key and their passphrases.",
        show_default="root-keys in the data directory",
    ),
]


def root_directory(root_keys: Path | None, data_dir: Path | None) -> Path:
    """Where this machine's root keys are, unless an option names another folder."""
    return root_keys or (data_dir or default_data_directory()) / ROOT_KEYS_DIRECTORY


@app.command("new")
def new(out: Out, as_json: Json = False) -> None:
    """Make a root key, sealed with a passphrase that is printed now and never again.

    It counts once a trust bundle names it: 'tensorguard trust draft --add-root root-….pub'.
    """
    _print([seal_root_key(out)], as_json=as_json)


@app.command("export")
def export(
    out: Out,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete them here, once the copies have been opened.")
    ] = False,
    root_keys: RootDir = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Copy this machine's root keys to another place, each sealed with a new passphrase."""
    directory = root_directory(root_keys, data_dir)
    signers = load_root_directory(directory)
    if out.resolve() == directory.resolve():
        raise RootKeysUnusable(
            f"{out} is where they are already", hint="Name another directory with --out."
        )
    made = [seal_root_key(out, signer) for signer in signers]
    for one in made:
        load_root_key(one.path, one.passphrase.encode())
    # Said before anything is deleted: a passphrase that nobody has seen is a key that is lost.
    _print(made, as_json=as_json)
    if remove:
        _remove(directory)


def _remove(directory: Path) -> None:
    for path in sorted(directory.glob(KEY_PATTERN)):
        path.unlink()
    for path in directory.glob("root-*passphrase"):
        path.unlink()


def ask_passphrase(path: Path, passphrase_file: Path | None) -> bytes:
    """The passphrase of a root key: from the file named, from beside it, or typed in."""
    if passphrase_file is not None:
        return passphrase_file.read_bytes().strip()
    beside = find_passphrase(path)
    if beside is not None:
        return beside
    typed: str = typer.prompt(f"Passphrase of {path}", hide_input=True, err=True)
    return typed.encode()


def _print(made: list[SealedRootKey], *, as_json: bool) -> None:
    facts: list[dict[str, Any]] = [
        {
            "kid": one.signer.kid,
            "key": str(one.path),
            "public": str(one.path.with_suffix(".pub")),
            "passphrase": one.passphrase,
        }
        for one in made
    ]
    if as_json:
        typer.echo(json.dumps({"root_keys": facts}))
        return
    for one in facts:
        typer.echo(
            f"{one['kid']}\n  {one['key']}\n  passphrase, shown only now: {one['passphrase']}"
        )
