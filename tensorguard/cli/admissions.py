"""`tensorguard admin agents`: decide about devices that wait, on the platform's own machine."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.cli.database import OPERATOR, DataDir, Json, find_database_url, in_transaction
from tensorguard.services.enrollment import admission
from tensorguard.services.enrollment.admission import Decisions
from tensorguard.store.agents import AgentFilter, list_agents

app = typer.Typer(no_args_is_help=True, help="Devices that wait for a decision.")

T = TypeVar("T")
Ids = Annotated[list[UUID], typer.Argument(metavar="ID…", help="Ids of agents.")]
_MOST_SHOWN = 500


@app.command("pending")
def pending(
    fleet: Annotated[str | None, typer.Option(help="Of this fleet alone.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the devices that wait, the longest waiting first."""

    async def work(session: AsyncSession) -> list[dict[str, str]]:
        wanted = AgentFilter(fleet=fleet, status="pending")
        rows = await list_agents(session, wanted, sort="created", limit=_MOST_SHOWN)
        return [
            {
                "id": str(row["id"]),
                "fleet": row["fleet"],
                "name": row["name"],
                "created_at": row["created_at"].isoformat(timespec="seconds"),
            }
            for row in rows
        ]

    found = _run(data_dir, work)
    if as_json:
        typer.echo(json.dumps({"agents": found}))
        return
    for one in found:
        typer.echo("  ".join(one.values()))


@app.command("approve")
def approve(ids: Ids, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Let devices have their certificates, which they get when they ask the next time."""
    _decide(ids, None, data_dir, as_json=as_json)


@app.command("reject")
def reject(
    ids: Ids,
    reason: Annotated[str, typer.Option(help="Why; the device is told, and it stands for ever.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Turn devices away."""
    _decide(ids, reason, data_dir, as_json=as_json)


@app.command("release")
def release(
    agent_id: Annotated[UUID, typer.Argument(metavar="ID", help="A revoked or rejected agent.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let the device of a lost agent enrol anew with its keys, as another agent."""

    async def work(session: AsyncSession) -> None:
        await admission.release_agent(session, agent_id, reason=reason, by=OPERATOR, now=_now())

    _run(data_dir, work)
    facts = {"id": str(agent_id), "released": True}
    typer.echo(json.dumps(facts) if as_json else f"released {agent_id}")


def _decide(ids: list[UUID], reason: str | None, data_dir: Path | None, *, as_json: bool) -> None:
    async def work(session: AsyncSession) -> Decisions:
        return await admission.decide_agents(session, ids, reason=reason, by=OPERATOR, now=_now())

    made = _run(data_dir, work)
    if as_json:
        failed = [{"id": str(one.id), "code": one.code} for one in made.failed]
        typer.echo(json.dumps({"decided": [str(one) for one in made.decided], "failed": failed}))
    else:
        for agent_id in made.decided:
            typer.echo(f"{'approved' if reason is None else 'rejected'} {agent_id}")
        for one in made.failed:
            typer.echo(f"{one.detail} ({one.code})", err=True)
    if made.failed:
        raise typer.Exit(1)


def _run(data_dir: Path | None, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    return asyncio.run(in_transaction(find_database_url(data_dir), work))


def _now() -> datetime:
    return datetime.now(UTC)
