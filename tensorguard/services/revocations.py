"""The kill switch: revoking an agent, and the receipt of what the broker fronts did about it."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services import ledger
from tensorguard.services.agents import AgentNotFound
from tensorguard.services.errors import NotFound
from tensorguard.services.event import Actor
from tensorguard.services.events import AgentRevocationConfirmed, AgentRevoked
from tensorguard.store.tables import (
    agents,
    broker_fronts,
    enrollment_tokens,
    ledger_events,
    revocation_receipts,
    revocations,
)

# A front without a lease refuses new connections but keeps those it has, so it still owes an
# answer; after this long its process is gone, and its connections with it.
_FORGET_FRONT_AFTER: Final = timedelta(minutes=5)
_CONFIRMING: Final = 7290431
_AT_ONCE: Final = 500


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
    """The state of a revocation; `partial` while a front has not confirmed it."""

    agent_id: UUID
    seq: int
    reason: str
    revoked_at: datetime
    revoked_by: str
    fronts: list[FrontReceipt] = field(default_factory=list)
    waiting_for: list[str] = field(default_factory=list)

    @property
    def state(self) -> Literal["complete", "partial"]:
        """Tell whether every front has confirmed."""
        return "partial" if self.waiting_for else "complete"


async def revoke_agent(
    session: AsyncSession, agent_id: UUID, *, reason: str, by: Actor, now: datetime
) -> Receipt:
    """Take an agent's identity away for good; a second time changes nothing, not even the reason.

    The token that it came with asks for an operator's approval from then on, so that the device
    cannot join again by itself. On commit every broker front is notified.

    Raises: AgentNotFound.
    """
    query = sa.select(agents.c.status, agents.c.fleet, agents.c.token_id)
    row = (
        await session.execute(query.where(agents.c.id == agent_id).with_for_update())
    ).one_or_none()
    if row is None:
        raise AgentNotFound(f"there is no agent {agent_id}")
    if row.status != "revoked":
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
        if row.token_id is not None:
            token = enrollment_tokens
            await session.execute(
                sa.update(token).where(token.c.id == row.token_id).values(approval="manual")
            )
        inserted = await session.execute(
            sa.insert(revocations)
            .values(
                agent_id=agent_id,
                reason=reason,
                revoked_at=now,
                revoked_by=by.id,
            )
            .returning(revocations.c.seq)
        )
        event = AgentRevoked(
            by=by,
            fleet=row.fleet,
            agent_id=agent_id,
            reason=reason,
            seq=inserted.scalar_one(),
            token_id=row.token_id,
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
            took_ms=_milliseconds((one.disconnected_at or one.denied_at) - row.revoked_at),
        )
        for one in await session.execute(receipts.order_by(revocation_receipts.c.front_id))
    ]
    # A front that started later has loaded the whole deny set before it listened.
    owing = (
        sa.select(broker_fronts.c.id)
        .where(
            broker_fronts.c.applied_seq < row.seq,
            broker_fronts.c.lease_until > now - _FORGET_FRONT_AFTER,
        )
        .order_by(broker_fronts.c.id)
    )
    confirmed = {one.front for one in fronts}
    return Receipt(
        agent_id=agent_id,
        seq=row.seq,
        reason=row.reason,
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
        fronts=fronts,
        waiting_for=[
            front for front in (await session.execute(owing)).scalars() if front not in confirmed
        ],
    )


async def confirm_revocations(session: AsyncSession, *, now: datetime) -> int:
    """Write the receipt of every revocation that all fronts have confirmed; return how many.

    Each is written once, however many processes call this.
    """
    await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_CONFIRMING)))
    written = sa.exists().where(
        ledger_events.c.type == AgentRevocationConfirmed.TYPE,
        ledger_events.c.subject_id == sa.cast(revocations.c.agent_id, sa.Text),
    )
    query = (
        sa.select(revocations.c.agent_id, agents.c.fleet)
        .join(agents, agents.c.id == revocations.c.agent_id)
        .where(~written)
        .order_by(revocations.c.seq)
        .limit(_AT_ONCE)
    )
    confirmed = 0
    for agent_id, fleet in await session.execute(query):
        receipt = await get_receipt(session, agent_id, now=now)
        if receipt.waiting_for:
            continue
        event = AgentRevocationConfirmed(
            by=Actor("service", "hub"),
            fleet=fleet,
            agent_id=agent_id,
            seq=receipt.seq,
            fronts_ms={one.front: one.took_ms for one in receipt.fronts},
            disconnected=sum(one.disconnected for one in receipt.fronts),
        )
        await ledger.record(session, event, now=now)
        confirmed += 1
    return confirmed


def _milliseconds(took: timedelta) -> int:
    return max(0, round(took / timedelta(milliseconds=1)))
