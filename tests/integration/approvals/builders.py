"""People and API keys, and what they ask of each other."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.errors import Conflict
from tensorguard.services.evidence.event import Actor
from tensorguard.services.people import api_keys, approvals
from tensorguard.services.people.access import Caller, Role
from tensorguard.services.people.approvals import Approval, ApprovalKind, Deciders, Executor
from tensorguard.store import tables
from tensorguard.store.engine import SessionMaker
from tensorguard.store.ids import new_id
from tests.postgres import Database

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
MACHINE = Actor("system", "command-line")
LONG_AGO = NOW - timedelta(days=90)
KIND = ApprovalKind.REVOKE_PUBLISHER


@dataclass
class Office:
    """Everybody's database, with a publisher-revoking executor that only counts."""

    sessions: SessionMaker
    database: Database
    done: list[tuple[Mapping[str, Any], Deciders]] = field(default_factory=list)

    async def person(
        self, role: Role = Role.ADMIN, *, stepped_up: bool = True, **columns: Any
    ) -> Caller:
        """A person who has signed in; made on the machine long ago unless `columns` says else."""
        user_id, digest = new_id(), secrets.token_bytes(32)
        values = {
            "id": user_id,
            "email": f"{user_id}@example.org",
            "name": "Ada",
            "role": role,
            "password_hash": "none",
            "password_changed_at": LONG_AGO,
            "created_at": LONG_AGO,
            "created_by": MACHINE.id,
            "totp_confirmed_at": LONG_AGO,
        } | columns
        async with self.sessions.begin() as session:
            await session.execute(sa.insert(tables.users).values(values))
            await session.execute(
                sa.insert(tables.sessions).values(
                    id_sha256=digest,
                    user_id=user_id,
                    created_at=NOW,
                    last_seen_at=NOW,
                    expires_at=NOW + timedelta(hours=12),
                    stepped_up_until=NOW + timedelta(hours=1) if stepped_up else None,
                )
            )
        return Caller(Actor("user", str(user_id)), role, user_id, digest)

    async def key(self, by: Caller | Actor = MACHINE, *, at: datetime = LONG_AGO) -> Caller:
        """An API key with the role of an admin."""
        actor = by.actor if isinstance(by, Caller) else by
        async with self.sessions.begin() as session:
            made = await api_keys.create_api_key(
                session, name="ci", role=Role.ADMIN, by=actor, now=at
            )
        return Caller(Actor("api-key", str(made.id)), Role.ADMIN)

    async def ask(
        self, by: Caller, *, kind: ApprovalKind = KIND, now: datetime = NOW, **request: Any
    ) -> Approval:
        async with self.sessions.begin() as session:
            return await approvals.ask(session, kind, request, fleet=None, by=by, now=now)

    async def decide(
        self,
        approval: Approval,
        by: Caller,
        *,
        approve: bool = True,
        reason: str | None = None,
        now: datetime = NOW,
        executor: Executor | None = None,
    ) -> Approval:
        async with self.sessions.begin() as session:
            return await approvals.decide(
                session,
                approval.id,
                approve=approve,
                reason=reason,
                by=by,
                executors={KIND: executor or self.execute},
                now=now,
            )

    async def execute(
        self, session: AsyncSession, request: Mapping[str, Any], deciders: Deciders, now: datetime
    ) -> Mapping[str, Any]:
        """Write down what was done, in the transaction and out of it."""
        await _write_fleet(session, request["slug"], now)
        self.done.append((request, deciders))
        return {"slug": request["slug"]}

    async def refuse(
        self, session: AsyncSession, request: Mapping[str, Any], deciders: Deciders, now: datetime
    ) -> Mapping[str, Any]:
        """Do it, and find out that it was not allowed."""
        await _write_fleet(session, request["slug"], now)
        raise Conflict("the fleet is gone")

    async def fleets(self) -> set[str]:
        async with self.sessions() as session:
            return set((await session.execute(sa.select(tables.fleets.c.slug))).scalars())

    async def get(self, approval_id: UUID, *, now: datetime = NOW) -> Approval:
        async with self.sessions() as session:
            return await approvals.get_approval(session, approval_id, now=now)

    async def stored(self, approval_id: UUID) -> Any:
        """The row as it is, whatever time it is."""
        table = tables.approvals
        async with self.sessions() as session:
            found = await session.execute(sa.select(table).where(table.c.id == approval_id))
            return found.one()

    async def told(self, subject: UUID | str) -> list[dict[str, Any]]:
        """The ledger's entries about something, the oldest first."""
        table = tables.ledger_events
        query = sa.select(table.c.entry).where(table.c.subject_id == str(subject))
        async with self.sessions() as session:
            entries = (await session.execute(query.order_by(table.c.id))).scalars()
            return [json.loads(bytes(entry)) for entry in entries]

    async def tamper(self, approval: Approval, **values: Any) -> None:
        """Change the row behind the platform's back, with the services' own rights."""
        table = tables.approvals
        async with self.sessions.begin() as session:
            await session.execute(
                sa.update(table).where(table.c.id == approval.id).values(**values)
            )


async def _write_fleet(session: AsyncSession, slug: str, now: datetime) -> None:
    await session.execute(
        sa.insert(tables.fleets).values(slug=slug, name=slug, created_at=now, created_by="test")
    )


def new_slug() -> str:
    return f"f-{secrets.token_hex(6)}"
