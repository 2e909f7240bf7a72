"""`tensorguard admin revoke`: the kill switch by whoever owns the platform's machine, at once.

There is no second person here, and no limit: whoever can read the database's credentials could
do the same without this command. The ledger names the command line.
"""

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
from tensorguard.services.revocation.fleet_revocations import FleetReceipt, revoke_fleet
from tensorguard.services.revocation.revocations import Receipt, revoke_agent

app = typer.Typer(no_args_is_help=True, help="Pull the kill switch, without a second person.")

T = TypeVar("T")
Reason = Annotated[str, typer.Option(help="Why; it stands in the ledger for ever.")]


@app.command("agent")
def revoke_one(
    agent_id: Annotated[UUID, typer.Argument(metavar="ID", help="The agent's id.")],
    reason: Reason,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Disconnect an agent and refuse it, for good."""

    async def work(session: AsyncSession) -> Receipt:
        return await revoke_agent(session, agent_id, reason=reason, by=OPERATOR, now=_now())

    receipt = _run(data_dir, work)
    facts = {"id": str(agent_id), "seq": receipt.seq, "revoked_at": _text(receipt.revoked_at)}
    typer.echo(json.dumps(facts) if as_json else f"revoked {agent_id}")


@app.command("fleet")
def revoke_all(
    fleet: Annotated[str, typer.Argument(metavar="FLEET", help="The fleet's slug.")],
    reason: Reason,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Disconnect every agent of a fleet and refuse it, for good; revoke the fleet's tokens."""

    async def work(session: AsyncSession) -> FleetReceipt:
        return await revoke_fleet(
            session, fleet, reason=reason, by=OPERATOR, approved_by=None, now=_now()
        )

    receipt = _run(data_dir, work)
    facts = {
        "id": str(receipt.id),
        "fleet": fleet,
        "agents": receipt.agents,
        "revoked_at": _text(receipt.revoked_at),
    }
    typer.echo(json.dumps(facts) if as_json else f"revoked {receipt.agents} agents of {fleet}")


def _run(data_dir: Path | None, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    return asyncio.run(in_transaction(find_database_url(data_dir), work))


def _now() -> datetime:
    return datetime.now(UTC)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
