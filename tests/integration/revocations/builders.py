"""Fleets of made-up agents, fronts that are rows, and a ledger to read."""

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tensorguard.services.evidence.event import Actor
from tensorguard.services.people.access import Caller
from tensorguard.services.revocation.confirmations import confirm_revocations
from tensorguard.services.revocation.fleet_revocations import FleetReceipt, revoke_fleet
from tensorguard.services.revocation.mass_revocation import is_one_too_many
from tensorguard.services.revocation.revocations import Receipt, get_receipt, revoke_agent
from tensorguard.store import tables
from tensorguard.store.engine import SessionMaker
from tensorguard.store.ids import new_id

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
MACHINE = Actor("system", "command-line")
SOMEBODY = Actor("user", "0195a1b2-0000-7000-8000-000000000001")
ANOTHER = Actor("user", "0195a1b2-0000-7000-8000-000000000002")

_AGENTS = sa.text("""
    INSERT INTO agents (id, fleet, name, tags, facts, status, enrolled_by, token_id,
                        enrolled_spki_sha256, encryption_key, created_at)
    SELECT gen_random_uuid(), :fleet, 'agent', '{}', '{}', :status, 'token', :token,
           sha256(gen_random_uuid()::text::bytea), sha256(gen_random_uuid()::text::bytea), :now
    FROM generate_series(1, :count) RETURNING id
""")


@dataclass
class Site:
    """A database with fleets."""

    sessions: SessionMaker

    async def fleet(self, count: int = 0, *, status: str = "active") -> str:
        """A fleet with so many agents."""
        slug = f"f-{secrets.token_hex(6)}"
        await self.run(
            sa.insert(tables.fleets).values(slug=slug, name=slug, created_at=NOW, created_by="test")
        )
        await self.agents(slug, count, status=status)
        return slug

    async def agents(
        self, fleet: str, count: int, *, status: str = "active", token: UUID | None = None
    ) -> list[UUID]:
        values = {"fleet": fleet, "status": status, "count": count, "now": NOW, "token": token}
        async with self.sessions.begin() as session:
            return list((await session.execute(_AGENTS, values)).scalars())

    async def token(self, fleet: str, **columns: Any) -> UUID:
        token_id = new_id()
        values = {
            "id": token_id,
            "fleet": fleet,
            "secret_sha256": secrets.token_bytes(32),
            "tags": {},
            "approval": "auto",
            "max_uses": 10,
            "uses_left": 10,
            "expires_at": NOW + timedelta(hours=1),
            "created_at": NOW,
            "created_by": "test",
        } | columns
        await self.run(sa.insert(tables.enrollment_tokens).values(values))
        return token_id

    async def front(
        self, applied_seq: int, *, lease: timedelta = timedelta(seconds=5), now: datetime = NOW
    ) -> str:
        front = f"front-{secrets.token_hex(4)}"
        values = {"started_at": now, "lease_until": now + lease, "applied_seq": applied_seq}
        await self.run(sa.insert(tables.broker_fronts).values(id=front, address="x", **values))
        return front

    async def confirm(
        self, front: str, first_seq: int, last_seq: int, *, after: timedelta, ended: int = 0
    ) -> None:
        """Be a front that has denied these, and ended so many sessions of each."""
        rows = [
            {
                "seq": seq,
                "front_id": front,
                "denied_at": NOW + after,
                "disconnected": ended,
                "disconnected_at": NOW + after if ended else None,
            }
            for seq in range(first_seq, last_seq + 1)
        ]
        await self.run(sa.insert(tables.revocation_receipts).values(rows))
        table = tables.broker_fronts
        await self.run(sa.update(table).where(table.c.id == front).values(applied_seq=last_seq))

    async def fronts_are_gone(self) -> None:
        await self.run(sa.delete(tables.broker_fronts))

    async def revoke(self, agent_id: UUID, *, by: Actor = SOMEBODY, now: datetime = NOW) -> Receipt:
        async with self.sessions.begin() as session:
            return await revoke_agent(session, agent_id, reason="stolen", by=by, now=now)

    async def revoke_alone(
        self, agent_id: UUID, fleet: str, by: Caller, *, now: datetime = NOW
    ) -> bool:
        """Revoke it as the api does: false where it takes a second person."""
        async with self.sessions.begin() as session:
            if await is_one_too_many(session, fleet, by=by.actor, now=now):
                return False
            await revoke_agent(session, agent_id, reason="stolen", by=by.actor, now=now)
            return True

    async def revoke_fleet(self, fleet: str, *, now: datetime = NOW) -> FleetReceipt:
        async with self.sessions.begin() as session:
            return await revoke_fleet(
                session, fleet, reason="breach", by=SOMEBODY, approved_by=ANOTHER, now=now
            )

    async def receipt(self, agent_id: UUID, *, now: datetime = NOW) -> Receipt:
        async with self.sessions() as session:
            return await get_receipt(session, agent_id, now=now)

    async def reconcile(self, now: datetime) -> int:
        async with self.sessions.begin() as session:
            return await confirm_revocations(session, now=now)

    async def run(self, statement: Any) -> None:
        async with self.sessions.begin() as session:
            await session.execute(statement)

    async def rows(self, query: Any) -> list[tuple[Any, ...]]:
        async with self.sessions() as session:
            return [tuple(row) for row in await session.execute(query)]

    async def statuses(self, fleet: str) -> dict[str, int]:
        table = tables.agents.c
        query = sa.select(table.status, sa.func.count()).where(table.fleet == fleet)
        return dict(await self.rows(query.group_by(table.status)))  # type: ignore[arg-type] # pairs

    async def told(self, subject: object, type_: str = "") -> list[dict[str, Any]]:
        """The ledger's entries about something, the oldest first."""
        table = tables.ledger_events.c
        query = sa.select(table.entry).where(
            table.subject_id == str(subject), table.type.startswith(type_)
        )
        entries = await self.rows(query.order_by(table.id))
        return [json.loads(bytes(entry)) for (entry,) in entries]
