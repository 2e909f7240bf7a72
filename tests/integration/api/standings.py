"""Agents that stand as a test wants them to, by rows alone."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Event
from tensorguard.store import tables
from tests.integration.api.clients import Api
from tests.integration.revocations.builders import Site


async def new_agents(api: Api, fleet: str, count: int, *, now: datetime) -> list[UUID]:
    """Active agents that are online, with a certificate for a week."""
    made = await Site(api.context.sessions).agents(fleet, count)
    certificates = [
        {
            "serial": agent.hex,
            "agent_id": agent,
            "spki_sha256": agent.bytes * 2,
            "certificate": "PEM",
            "not_before": now,
            "not_after": now + timedelta(days=7),
            "issued_at": now,
            "authority_key_id": b"key",
        }
        for agent in made
    ]
    statuses = [{"agent_id": agent, "presence": "online", "presence_since": now} for agent in made]
    await run(api, sa.insert(tables.certificates).values(certificates))
    await run(api, sa.insert(tables.agent_status).values(statuses))
    return made


async def run(api: Api, statement: sa.Executable) -> None:
    async with api.context.sessions.begin() as session:
        await session.execute(statement)


async def change(api: Api, table: sa.Table, agent: UUID, **values: Any) -> None:
    """Change the agent's row."""
    key = table.c.id if table is tables.agents else table.c.agent_id
    await run(api, sa.update(table).where(key == agent).values(**values))


async def record(api: Api, *events: Event, at: datetime) -> None:
    """Write events as if they had come at that time."""
    async with api.context.sessions.begin() as session:
        await ledger.record_many(session, events, now=at)
