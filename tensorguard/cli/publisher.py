"""`tensorguard admin publisher`: who may sign packages, and the trust bundle that tells agents so.

Runs where the root keys are, which sign the bundle and which no service ever loads; or, with
`--draft`, writes the bundle to a file that travels to them.
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
from tensorguard.cli.trust import write_draft
from tensorguard.services.deployments.release_errors import PublisherNotFound
from tensorguard.services.trust import publishers
from tensorguard.services.trust.publisher_overview import (
    PublisherOverview,
    list_publisher_overviews,
)
from tensorguard.services.trust.publishers import Succession
from tensorguard.services.trust.rootkeys import load_root_directory
from tensorguard.services.trust.trust import draft_next
from tensorguard.services.trust.trust_publishing import publish_next
from tensorguard.store.publishers import Publisher, list_publishers

app = typer.Typer(no_args_is_help=True, help="Keys that may sign packages.")
_KID_PREFIX = 8

Change = Callable[[AsyncSession], Awaitable[Publisher]]
RootDir = Annotated[
    Path | None,
    typer.Option(
        "--root-keys",
        help="The folder with root-*.key and root-passphrase.",
        show_default="root-keys in the data directory",
    ),
]
DraftOut = Annotated[
    Path | None,
    typer.Option(
        "--draft",
        dir_okay=False,
        help="Do not publish: write the next bundle here, for root keys that are elsewhere.",
    ),
]
KeyFile = Annotated[
    Path,
    typer.Option(
        "--key", exists=True, dir_okay=False, help="PREFIX.pub of 'tgsp keygen publisher'."
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(help="A package name it may sign, '*' at the end for a prefix; repeatable."),
]
Days = Annotated[int, typer.Option(min=1, max=3650, help="For how long.")]
Begin = Annotated[datetime | None, typer.Option(help="From when, in UTC.", show_default="at once")]
Kid = Annotated[str, typer.Argument(metavar="KID", help="The publisher's key id; 8 digits do.")]
Reason = Annotated[str, typer.Option(help="Why; it stands in the ledger.")]


@app.command("list")
def show(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List publishers: what they may sign, until when, and how many agents have heard of it."""
    now = datetime.now(UTC)

    async def work(session: AsyncSession) -> list[PublisherOverview]:
        return await list_publisher_overviews(session, now=now)

    found = asyncio.run(in_transaction(find_database_url(data_dir), work))
    if as_json:
        typer.echo(json.dumps([_overview_facts(one) for one in found]))
        return
    for one in found:
        typer.echo("\n".join(_overview_lines(one)))


@app.command("register")
def register(
    key: KeyFile,
    name: Annotated[str, typer.Option(help="What the publisher is called.")],
    names: Names = None,
    valid_days: Days = 730,
    not_before: Begin = None,
    root_keys: RootDir = None,
    draft: DraftOut = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a key sign packages, and publish the trust bundle with which agents believe it."""
    now = datetime.now(UTC)
    begin = None if not_before is None else not_before.replace(tzinfo=UTC)

    async def work(session: AsyncSession) -> Publisher:
        return await publishers.register_publisher(
            session,
            name=name,
            public_pem=_read(key),
            names=names or ["*"],
            not_before=begin,
            not_after=(begin or now) + timedelta(days=valid_days),
            by=OPERATOR,
            now=now,
        )

    _publish(data_dir, root_keys, draft, work, now=now, as_json=as_json)


@app.command("rotate")
def rotate(
    kid: Kid,
    key: KeyFile,
    name: Annotated[
        str | None, typer.Option(help="What the new one is called.", show_default="the same")
    ] = None,
    valid_days: Days = 730,
    not_before: Begin = None,
    overlap_days: Annotated[
        int, typer.Option(min=1, max=3650, help="How long both count, at most.")
    ] = 30,
    root_keys: RootDir = None,
    draft: DraftOut = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a new key take a publisher's place: both count for a time, then only the new one.

    Packages that only the old key has signed do not open any more after that.
    """
    now = datetime.now(UTC)
    begin = None if not_before is None else not_before.replace(tzinfo=UTC)

    async def work(session: AsyncSession) -> Publisher:
        former = await _find(session, kid)
        ends = min(former.not_after, (begin or now) + timedelta(days=overlap_days))
        return await publishers.register_publisher(
            session,
            name=name or former.name,
            public_pem=_read(key),
            names=former.names,
            not_before=begin,
            not_after=(begin or now) + timedelta(days=valid_days),
            succeeds=Succession(kid=former.kid, predecessor_ends=ends),
            by=OPERATOR,
            now=now,
        )

    _publish(data_dir, root_keys, draft, work, now=now, as_json=as_json)


@app.command("change")
def change(
    kid: Kid,
    reason: Reason,
    names: Names = None,
    not_after: Annotated[
        datetime | None, typer.Option(help="Until when, in UTC.", show_default="as it is")
    ] = None,
    root_keys: RootDir = None,
    draft: DraftOut = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Change what a publisher may sign, or until when. What is not given stays as it is."""
    now = datetime.now(UTC)

    async def work(session: AsyncSession) -> Publisher:
        return await publishers.change_publisher(
            session,
            (await _find(session, kid)).kid,
            names=names or None,
            not_after=None if not_after is None else not_after.replace(tzinfo=UTC),
            reason=reason,
            by=OPERATOR,
            now=now,
        )

    _publish(data_dir, root_keys, draft, work, now=now, as_json=as_json)


@app.command("revoke")
def revoke(
    kid: Kid,
    reason: Reason,
    root_keys: RootDir = None,
    draft: DraftOut = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a key's signature count no more, here at once, on agents with the next trust bundle.

    Deployments of what it has signed are paused.
    """
    now = datetime.now(UTC)

    async def work(session: AsyncSession) -> Publisher:
        found = await _find(session, kid)
        return await publishers.revoke_publisher(
            session, found.kid, reason=reason, by=OPERATOR, now=now
        )

    _publish(data_dir, root_keys, draft, work, now=now, as_json=as_json)


def _publish(
    data_dir: Path | None,
    root_keys: Path | None,
    draft: Path | None,
    change: Change,
    *,
    now: datetime,
    as_json: bool,
) -> None:
    """Make a change and publish the bundle that holds it, or draft it, in one transaction."""
    folder = root_keys or (data_dir or default_data_directory()) / ROOT_KEYS_DIRECTORY
    signers = [] if draft is not None else load_root_directory(folder)

    async def work(session: AsyncSession) -> tuple[Publisher, int]:
        publisher = await change(session)
        if draft is None:
            return publisher, (await publish_next(session, signers, by=OPERATOR, now=now)).version
        made = await draft_next(session, now=now)
        write_draft(draft, made, replace=False)
        return publisher, made.following.version

    publisher, version = asyncio.run(in_transaction(find_database_url(data_dir), work))
    facts: dict[str, Any] = _facts(publisher) | {"trust_version": version}
    text = f"{publisher.kid}  {publisher.name}  (trust bundle {version})"
    if draft is not None:
        facts |= {"published": False, "draft": str(draft)}
        text += f"\nagents learn of it when it is published: sign {draft}, then publish it"
    typer.echo(json.dumps(facts) if as_json else text)


async def _find(session: AsyncSession, prefix: str) -> Publisher:
    """The one publisher whose key id begins so. Raises: PublisherNotFound."""
    named = [one for one in await list_publishers(session) if one.kid.startswith(prefix)]
    if len(prefix) < _KID_PREFIX or len(named) != 1:
        raise PublisherNotFound(f"{prefix[:80]!r} names {len(named)} publishers")
    return named[0]


def _read(key: Path) -> str:
    return key.read_text(encoding="ascii", errors="replace")


def _facts(publisher: Publisher) -> dict[str, Any]:
    return {
        "kid": publisher.kid,
        "name": publisher.name,
        "names": publisher.names,
        "not_before": publisher.not_before.isoformat(),
        "not_after": publisher.not_after.isoformat(),
        "succeeds": publisher.succeeds,
        "revoked": publisher.revoked_at is not None,
    }


def _overview_facts(found: PublisherOverview) -> dict[str, Any]:
    return _facts(found.publisher) | {
        "state": str(found.state),
        "succeeded_by": found.succeeded_by,
        "told_in": found.publisher.told_in,
        "awaits_bundle": found.awaits_bundle,
        "packages": found.packages,
        "agents": found.agents,
        "agents_told": found.agents_told,
    }


def _overview_lines(found: PublisherOverview) -> list[str]:
    one = found.publisher
    told = f"{found.agents_told} of {found.agents} agents know, by trust bundle {one.told_in}"
    if found.awaits_bundle:
        told = "no agent knows: the next trust bundle has to be published"
    lines = [
        f"{one.kid}  {one.name}  {found.state}",
        f"  may sign {', '.join(one.names)}, {one.not_before:%Y-%m-%d} to {one.not_after:%Y-%m-%d}",
        f"  {found.packages} packages; {told}",
    ]
    if one.succeeds or found.succeeded_by:
        after = f"succeeds {one.succeeds[:16]}…" if one.succeeds else ""
        before = f"succeeded by {found.succeeded_by[:16]}…" if found.succeeded_by else ""
        lines.append("  " + ", ".join(text for text in (after, before) if text))
    return lines
