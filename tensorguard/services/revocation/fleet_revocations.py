"""The kill switch for a fleet: every agent of it in one transaction, and one receipt for all."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.errors import FleetNotFound, NotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor, Event
from tensorguard.services.evidence.events import (
    AgentRejected,
    AgentRevoked,
    FleetRevoked,
    TokenRevoked,
)
from tensorguard.services.revocation.revocations import list_waiting, milliseconds
from tensorguard.store.ids import new_id
from tensorguard.store.tables import (
    agents,
    enrollment_tokens,
    fleet_revocations,
    fleets,
    manufacturer_cas,
    revocation_receipts,
    revocations_unconfirmed,
)

_ENTRIES_AT_ONCE: Final = 500
# The numbers are given under a lock that every revocation needs, so this comes last. They have no
# gap: whoever holds the lock is alone.
_NUMBER: Final = sa.text("""
    WITH numbered AS (
        INSERT INTO revocations (agent_id, reason, revoked_at, revoked_by)
        SELECT id, :reason, :now, :by FROM unnest(:ids) AS id
        RETURNING seq
    ) SELECT min(seq) AS first_seq, max(seq) AS last_seq FROM numbered
""").bindparams(sa.bindparam("ids", type_=ARRAY(sa.Uuid())))


class FleetRevocationNotFound(NotFound):
    """The fleet has no revocation with this id."""

    code = "fleet-revocation-not-found"
    hint = "List the fleet's revocations."


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReceipt:
    """What became of a fleet's revocation; `partial` while a front has not confirmed all of it."""

    id: UUID
    fleet: str
    reason: str
    agents: int
    last_seq: int | None
    revoked_at: datetime
    revoked_by: str
    approved_by: str | None
    fronts_ms: dict[str, int]
    waiting_for: list[str]
    not_answering: list[str]
    disconnected: int

    @property
    def denied_at_every_front(self) -> bool:
        """Tell whether no front admits any of the agents, nor holds a session of one."""
        return not self.waiting_for

    @property
    def took_ms(self) -> int | None:
        """Milliseconds until the last front had denied the last agent; None if none has yet."""
        return max(self.fronts_ms.values(), default=None)

    @property
    def state(self) -> Literal["complete", "partial"]:
        """Tell whether every front has confirmed."""
        return "partial" if self.waiting_for else "complete"


async def revoke_fleet(
    session: AsyncSession,
    fleet: str,
    *,
    reason: str,
    by: Actor,
    approved_by: Actor | None,
    now: datetime,
) -> FleetReceipt:
    """Revoke every active agent of a fleet, reject the pending ones, and let nobody join by itself.

    Its tokens are revoked, and its manufacturer CAs ask for an operator's approval from then on.
    On commit every broker front is notified, once. Again it revokes whoever came in between.

    Raises: FleetNotFound.
    """
    await check_fleet(session, fleet)
    # Locked in the order of enrollment: CAs, agents, tokens. Who is joining at this moment holds
    # a CA or a token, so that after these nobody does, and the agents that came in are looked for.
    cas = await _ask_for_approval(session, fleet)
    active, pending = await _end_agents(session, fleet, reason, now)
    tokens = await _revoke_tokens(session, fleet, now)
    for found, late in zip(
        (active, pending), await _end_agents(session, fleet, reason, now), strict=True
    ):
        found += late
    revocation_id = new_id()
    order: dict[str, Any] = {
        "by": by,
        "fleet": fleet,
        "reason": reason,
        "approved_by": None if approved_by is None else approved_by.id,
    }
    events: list[Event] = [TokenRevoked(by=by, fleet=fleet, token_id=token) for token in tokens]
    events += [AgentRejected(by=by, fleet=fleet, agent_id=one, reason=reason) for one in pending]
    events += [
        AgentRevoked(**order, agent_id=agent_id, fleet_revocation_id=revocation_id)
        for agent_id in active
    ]
    await _record(session, events, now)
    first_seq, last_seq = await _number(session, revocation_id, active, order, now)
    told = FleetRevoked(
        **order,
        revocation_id=revocation_id,
        agents=len(active),
        rejected=len(pending),
        tokens=len(tokens),
        manufacturer_cas=cas,
        first_seq=first_seq,
        last_seq=last_seq,
    )
    await ledger.record(session, told, now=now)
    return await get_fleet_receipt(session, fleet, revocation_id, now=now)


async def _number(
    session: AsyncSession,
    revocation_id: UUID,
    active: Sequence[UUID],
    order: dict[str, Any],
    now: datetime,
) -> tuple[int | None, int | None]:
    """Write the rows that the fronts read; return the first number and the last."""
    by, reason = order["by"].id, order["reason"]
    values = {"ids": active, "reason": reason, "now": now, "by": by}
    numbers = (await session.execute(_NUMBER, values)).one()
    await session.execute(
        sa.insert(fleet_revocations).values(
            id=revocation_id,
            fleet=order["fleet"],
            reason=reason,
            agents=len(active),
            first_seq=numbers.first_seq,
            last_seq=numbers.last_seq,
            revoked_at=now,
            revoked_by=by,
            approved_by=order["approved_by"],
        )
    )
    if active:
        owed = {"seq": numbers.last_seq, "fleet_revocation_id": revocation_id}
        await session.execute(sa.insert(revocations_unconfirmed).values(owed))
    return numbers.first_seq, numbers.last_seq


async def check_fleet(session: AsyncSession, fleet: str) -> None:
    """Raise FleetNotFound if there is no such fleet."""
    query = sa.select(fleets.c.slug).where(fleets.c.slug == fleet)
    if (await session.execute(query)).one_or_none() is None:
        raise FleetNotFound(f"there is no fleet {fleet[:80]!r}")


async def get_fleet_receipt(
    session: AsyncSession, fleet: str, revocation_id: UUID, *, now: datetime
) -> FleetReceipt:
    """Return what the fronts have done about one revocation so far.

    Raises: FleetRevocationNotFound.
    """
    table = fleet_revocations
    query = sa.select(table).where(table.c.id == revocation_id, table.c.fleet == fleet)
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise FleetRevocationNotFound(f"there is no revocation {revocation_id} of {fleet!r}")
    return await _receipt(session, row, now)


async def list_fleet_receipts(
    session: AsyncSession,
    fleet: str,
    *,
    now: datetime,
    before: UUID | None = None,
    limit: int = 50,
) -> list[FleetReceipt]:
    """Return a fleet's revocations, the newest first.

    Raises: FleetNotFound.
    """
    await check_fleet(session, fleet)
    table = fleet_revocations
    query = sa.select(table).where(table.c.fleet == fleet).order_by(table.c.id.desc())
    if before is not None:
        query = query.where(table.c.id < before)
    rows = (await session.execute(query.limit(limit))).all()
    return [await _receipt(session, row, now) for row in rows]


async def _receipt(session: AsyncSession, row: sa.Row[Any], now: datetime) -> FleetReceipt:
    table = revocation_receipts
    ended_at = sa.func.coalesce(table.c.disconnected_at, table.c.denied_at)
    query = (
        sa.select(
            table.c.front_id,
            sa.func.sum(table.c.disconnected).label("disconnected"),
            sa.func.max(ended_at).label("ended_at"),
            sa.func.bool_or(table.c.seq == row.last_seq).label("is_whole"),
        )
        .where(table.c.seq.between(row.first_seq, row.last_seq))
        .group_by(table.c.front_id)
        .order_by(table.c.front_id)
    )
    found = (await session.execute(query)).all()
    confirmed = [one.front_id for one in found if one.is_whole]
    waiting_for, not_answering = await list_waiting(session, row.last_seq or 0, confirmed, now=now)
    return FleetReceipt(
        id=row.id,
        fleet=row.fleet,
        reason=row.reason,
        agents=row.agents,
        last_seq=row.last_seq,
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
        approved_by=row.approved_by,
        fronts_ms={one.front_id: milliseconds(one.ended_at - row.revoked_at) for one in found},
        waiting_for=waiting_for,
        not_answering=not_answering,
        disconnected=sum(one.disconnected for one in found),
    )


async def _revoke_tokens(session: AsyncSession, fleet: str, now: datetime) -> list[UUID]:
    table = enrollment_tokens
    revoked = await session.execute(
        sa.update(table)
        .where(table.c.fleet == fleet, table.c.revoked_at.is_(None), table.c.expires_at > now)
        .values(revoked_at=now)
        .returning(table.c.id)
    )
    return list(revoked.scalars())


async def _ask_for_approval(session: AsyncSession, fleet: str) -> int:
    table = manufacturer_cas
    changed = await session.execute(
        sa.update(table)
        .where(table.c.fleet == fleet, table.c.state == "active", table.c.approval == "auto")
        .values(approval="manual")
        .returning(table.c.id)
    )
    return len(changed.all())


async def _end_agents(
    session: AsyncSession, fleet: str, reason: str, now: datetime
) -> tuple[list[UUID], list[UUID]]:
    """Revoke the active agents and reject the pending ones; return their ids."""
    query = (
        sa.select(agents.c.id, agents.c.status)
        .where(agents.c.fleet == fleet, agents.c.status.in_(("active", "pending")))
        .order_by(agents.c.id)
        .with_for_update()
    )
    rows = (await session.execute(query)).all()
    active = [row.id for row in rows if row.status == "active"]
    pending = [row.id for row in rows if row.status == "pending"]
    change = {"status_reason": reason, "revision": agents.c.revision + 1}
    for ids, more in (
        (active, {"status": "revoked", "revoked_at": now}),
        (pending, {"status": "rejected"}),
    ):
        among = agents.c.id == sa.any_(sa.bindparam("ids", ids, type_=ARRAY(sa.Uuid())))
        await session.execute(sa.update(agents).where(among).values({**change, **more}))
    return active, pending


async def _record(session: AsyncSession, events: Sequence[Event], now: datetime) -> None:
    """Write them a few hundred at a time: the process has other requests."""
    waiting = iter(events)
    while some := list(islice(waiting, _ENTRIES_AT_ONCE)):
        await ledger.record_many(session, some, now=now)
