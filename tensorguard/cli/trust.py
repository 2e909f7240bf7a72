"""`tensorguard trust`: what agents believe, and the ceremony that changes it."""

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.cli.database import OPERATOR, DataDir, Json, find_database_url, in_transaction
from tensorguard.cli.root_keys import app as root
from tensorguard.cli.root_keys import ask_passphrase
from tensorguard.cli.rotate_ca import rotate_ca
from tensorguard.pki.bundle import TrustStore, trusted_key
from tensorguard.pki.changes import describe_changes
from tensorguard.pki.draft import Draft
from tensorguard.services.errors import Invalid
from tensorguard.services.platform import KEY_LIFETIME
from tensorguard.services.trust.rootkeys import load_root_key, read_root_public
from tensorguard.services.trust.trust import Roots, draft_next, get_latest_bundle
from tensorguard.services.trust.trust_overview import TrustOverview, get_trust_overview
from tensorguard.services.trust.trust_publishing import publish as publish_bundle

app = typer.Typer(no_args_is_help=True, help="Root keys, trust bundles and the platform's CA.")
app.add_typer(root, name="root")
app.command("rotate-ca")(rotate_ca)

DraftFile = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, help="What 'trust draft' wrote.")
]
_KID_PREFIX = 8


class BadRoots(Invalid):
    """The root keys or the threshold that a draft asks for cannot be."""

    code = "bad-roots"
    hint = "'tensorguard trust show' lists the root keys; the threshold is at most their number."


@app.command("show")
def show(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show the trust bundle, the CAs, and which bundle agents believe."""
    now = datetime.now(UTC)

    async def work(session: AsyncSession) -> TrustOverview:
        return await get_trust_overview(session, now=now)

    found = asyncio.run(in_transaction(find_database_url(data_dir), work))
    typer.echo(json.dumps(_facts(found)) if as_json else "\n".join(_lines(found)))


@app.command("draft")
def draft(
    out: Annotated[Path, typer.Option("--out", dir_okay=False, help="The file to write.")],
    add_root: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="root-….pub of a new root key; repeatable."),
    ] = None,
    remove_root: Annotated[
        list[str] | None, typer.Option(help="A root key's id, or its beginning; repeatable.")
    ] = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, help="How many root keys have to sign from then on.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write the next trust bundle, of what the platform says now, for root keys to sign."""
    now = datetime.now(UTC)

    async def work(session: AsyncSession) -> Draft:
        current = await get_latest_bundle(session)
        roots = change_roots(current, add_root or [], remove_root or [], threshold, now)
        return await draft_next(session, now=now, roots=roots)

    made = asyncio.run(in_transaction(find_database_url(data_dir), work))
    write_draft(out, made, replace=False)
    _report(made, now, as_json=as_json)


@app.command("sign")
def sign(
    file: DraftFile,
    key: Annotated[
        list[Path],
        typer.Option("--key", exists=True, dir_okay=False, help="root-….key; repeatable."),
    ],
    passphrase_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Else from beside the key, or typed in."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to sign.")] = False,
    as_json: Json = False,
) -> None:
    """Sign a draft with a root key. Needs no platform: run it where the key is."""
    now = datetime.now(UTC)
    found = Draft.parse(file.read_bytes())
    typer.echo("\n".join(describe_changes(found.current, found.following)), err=as_json)
    if not yes:
        typer.confirm("Sign this?", abort=True, err=True)
    for path in key:
        found = found.sign(load_root_key(path, ask_passphrase(path, passphrase_file)))
    write_draft(file, found, replace=True)
    _report(found, now, as_json=as_json)


@app.command("publish")
def publish(
    file: DraftFile,
    leave: Annotated[
        list[UUID] | None,
        typer.Option(help="An agent that may lose its certificate with a retired CA; repeatable."),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Publish a signed bundle: agents fetch it and believe it from then on."""
    found = Draft.parse(file.read_bytes())

    async def work(session: AsyncSession) -> TrustStore:
        now = datetime.now(UTC)
        raw = found.envelope
        return await publish_bundle(session, raw, by=OPERATOR, now=now, leave=set(leave or []))

    store = asyncio.run(in_transaction(find_database_url(data_dir), work))
    facts = {"version": store.version, "root_threshold": store.bundle.root_threshold}
    typer.echo(json.dumps(facts) if as_json else f"published trust bundle {store.version}")


def change_roots(
    current: TrustStore,
    add: Sequence[Path],
    remove: Sequence[str],
    threshold: int | None,
    now: datetime,
) -> Roots:
    """The root keys of `current` with those added and removed. Raises: BadRoots."""
    keys = {key.kid: key for key in current.bundle.keys.root}
    for prefix in remove:
        named = [kid for kid in keys if len(prefix) >= _KID_PREFIX and kid.startswith(prefix)]
        if len(named) != 1:
            raise BadRoots(f"{prefix[:80]!r} names {len(named)} root keys")
        del keys[named[0]]
    for path in add:
        key = trusted_key(read_root_public(path), now + KEY_LIFETIME)
        if key.kid in keys:
            raise BadRoots(f"{path} is a root key already")
        keys[key.kid] = key
    wanted = current.bundle.root_threshold if threshold is None else threshold
    if wanted > len(keys):
        raise BadRoots(f"{wanted} of {len(keys)} root keys cannot sign")
    return Roots(list(keys.values()), wanted)


def write_draft(path: Path, draft: Draft, *, replace: bool) -> None:
    """Write a draft as a whole. Raises: BadRoots where it would overwrite another."""
    if not replace and path.exists():
        raise BadRoots(
            f"{path} exists, and may hold signatures", hint="Remove it, or name another file."
        )
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(draft.to_bytes())
    os.replace(partial, path)  # noqa: PTH105  the same; a name of its own in the traceback


def _report(draft: Draft, now: datetime, *, as_json: bool) -> None:
    quorums = draft.quorums(now)
    facts = {
        "version": draft.following.version,
        "complete": not any(one.missing for one in quorums),
        "signatures": [
            {
                "of": one.whose,
                "threshold": one.threshold,
                "signed": list(one.signed),
                "unsigned": list(one.unsigned),
            }
            for one in quorums
        ],
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for one in quorums:
        text = f"{len(one.signed)} of {one.threshold} signatures by {one.whose} root keys"
        if one.missing:
            text += f"; {one.missing} more of: {', '.join(kid[:16] for kid in one.unsigned)}"
        typer.echo(text)


def _facts(found: TrustOverview) -> dict[str, Any]:
    return {
        "version": found.version,
        "issued_at": found.issued_at.isoformat(),
        "expires_at": found.expires_at.isoformat(),
        "root_threshold": found.root_threshold,
        "roots": found.roots,
        "cas": [
            {
                "spki_sha256": one.spki_sha256,
                "state": one.state,
                "not_before": one.not_before.isoformat(),
                "not_after": one.not_after.isoformat(),
                "agents": one.agents,
            }
            for one in found.cas
        ],
        "agents_by_version": [
            {"version": one.version, "agents": one.agents} for one in found.agents_by_version
        ],
        "awaited": found.awaited,
    }


def _lines(found: TrustOverview) -> list[str]:
    life = f"{found.issued_at:%Y-%m-%d} to {found.expires_at:%Y-%m-%d}"
    lines = [
        f"trust bundle {found.version}, {life}",
        f"{found.root_threshold} of {len(found.roots)} root keys have to sign the next:",
        *(f"  {kid}" for kid in found.roots),
        "CAs:",
    ]
    for one in found.cas:
        until = f"{one.not_before:%Y-%m-%d} to {one.not_after:%Y-%m-%d}"
        lines.append(f"  {one.spki_sha256}  {one.state:8}  {until}  {one.agents} agents")
    lines.append("active agents, by the bundle that they believe:")
    lines += [
        f"  {one.version if one.version is not None else 'unknown'}: {one.agents}"
        for one in found.agents_by_version
    ]
    if found.awaited:
        lines.append(
            "what the next bundle will say ('tensorguard trust draft', 'sign', 'publish'):"
        )
        lines += [f"  {one}" for one in found.awaited]
    return lines
