"""The kill switch for one agent: revoking it, and the receipt of what the broker fronts did."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.errors import NotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import AgentRevoked
from tensorguard.services.fleets.agents import AgentNotFound
from tensorguard.services.fleets.fronts import list_owing
from tensorguard.store.tables import (
    agents,
    enrollment_tokens,
    revocation_receipts,
    revocations,
    revocations_unconfirmed,
)


class NotRevoked(NotFound):
    """The agent was never revoked, so there is no receipt."""

    code = "not-revoked"
    hint = "POST /api/v1/agents/{id}/revoke revokes it, for good."


@dataclass(frozen=True, slots=True)
class FrontReceipt:
    """What one front did: how many connections it ended, and after how long."""

    front: str
    denied_at: datetime
    disconnected: int
    disconnected_at: datetime | None
    took_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The state of a revocation; `partial` while a front has not confirmed it.

    `not_answering` are those of `waiting_for` that have lost their lease: they admit nobody.
    """

    agent_id: UUID
    seq: int
    reason: str
    revoked_at: datetime
    revoked_by: str
    fronts: list[FrontReceipt] = field(default_factory=list)
    waiting_for: list[str] = field(default_factory=list)
    not_answering: list[str] = field(default_factory=list)

    @property
    def state(self) -> Literal["complete", "partial"]:
        """Tell whether every front has confirmed."""
        return "partial" if self.waiting_for else "complete"


async def revoke_agent(
    session: AsyncSession,
    agent_id: UUID,
    *,
    reason: str,
    by: Actor,
    now: datetime,
    approved_by: Actor | None = None,
) -> Receipt:
    """Take an agent's identity away for good; a second time changes nothing, not even the reason.

    The token that it came with asks for an operator's approval from then on, and its keys stay
    taken until an operator releases it, so that the device cannot join again by itself. On commit
    every broker front is notified. Whether it takes a second person is `is_one_too_many`'s to say.

    Raises: AgentNotFound.
    """
    query = sa.select(agents.c.status, agents.c.fleet, agents.c.token_id)
    row = (
        await session.execute(query.where(agents.c.id == agent_id).with_for_update())
    ).one_or_none()
    if row is None:
        raise AgentNotFound(f"there is no agent {agent_id}")
    if row.status != "revoked":
        await _mark(session, agent_id, row.token_id, reason, now)
        seq = await _number(session, agent_id, reason, by, now)
        event = AgentRevoked(
            by=by,
            fleet=row.fleet,
            agent_id=agent_id,
            reason=reason,
            seq=seq,
            token_id=row.token_id,
            approved_by=None if approved_by is None else approved_by.id,
        )
        await ledger.record(session, event, now=now)
    return await get_receipt(session, agent_id, now=now)


async def get_receipt(session: AsyncSession, agent_id: UUID, *, now: datetime) -> Receipt:
    """Return what the fronts have done so far.

    Raises: NotRevoked.
    """
    query = (
        sa.select(revocations)
        .where(revocations.c.agent_id == agent_id)
        .order_by(revocations.c.seq)
        .limit(1)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise NotRevoked(f"agent {agent_id} was not revoked")
    receipts = sa.select(revocation_receipts).where(revocation_receipts.c.seq == row.seq)
    fronts = [
        FrontReceipt(
            front=one.front_id,
            denied_at=one.denied_at,
            disconnected=one.disconnected,
            disconnected_at=one.disconnected_at,
            took_ms=milliseconds((one.disconnected_at or one.denied_at) - row.revoked_at),
        )
        for one in await session.execute(receipts.order_by(revocation_receipts.c.front_id))
    ]
    waiting_for, not_answering = await list_waiting(
        session, row.seq, [one.front for one in fronts], now=now
    )
    return Receipt(
        agent_id=agent_id,
        seq=row.seq,
        reason=row.reason,
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
        fronts=fronts,
        waiting_for=waiting_for,
        not_answering=not_answering,
    )


async def list_waiting(
    session: AsyncSession, seq: int, confirmed: Sequence[str], *, now: datetime
) -> tuple[list[str], list[str]]:
    """Return the fronts that have not confirmed `seq`, and those of them that do not answer."""
    owing = [one for one in await list_owing(session, seq, now=now) if one.id not in confirmed]
    return [one.id for one in owing], [one.id for one in owing if not one.answers]


def milliseconds(took: timedelta) -> int:
    """Whole milliseconds; clocks that differ make nothing faster than at once."""
    return max(0, round(took / timedelta(milliseconds=1)))


async def _mark(
    session: AsyncSession, agent_id: UUID, token_id: UUID | None, reason: str, now: datetime
) -> None:
    await session.execute(
        sa.update(agents)
        .where(agents.c.id == agent_id)
        .values(
            status="revoked",
            status_reason=reason,
            revoked_at=now,
            revision=agents.c.revision + 1,
        )
    )
    if token_id is not None:
        table = enrollment_tokens
        await session.execute(
            sa.update(table).where(table.c.id == token_id).values(approval="manual")
        )


async def _number(
    session: AsyncSession, agent_id: UUID, reason: str, by: Actor, now: datetime
) -> int:
    row = {"agent_id": agent_id, "reason": reason, "revoked_at": now, "revoked_by": by.id}
    inserted = await session.execute(
        sa.insert(revocations).values(row).returning(revocations.c.seq)
    )
    seq = int(inserted.scalar_one())
    await session.execute(sa.insert(revocations_unconfirmed).values(seq=seq))
    return seq
