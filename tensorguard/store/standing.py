"""How each agent stands: one reason, the gravest that holds, worked out by the database.

The counts of the sunburst and the filter of the list of agents are this one expression, so that a
number and what it leads to agree. Which band a reason belongs to is said in
services/compliance/bands.py.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.store.tables import Time, agent_status, agents, certificates, fleets, ledger_events

Reason = Literal[
    "revoked",
    "decryption-failed",
    "signature-refused",
    "policy-violation",
    "operation-denied",
    "conflicting-events",
    "low-trust",
    "certificate-expired",
    "certificate-ends-soon",
    "offline",
    "never-seen",
    "flooding",
    "unreadable-messages",
    "late",
    "online",
]
"""The gravest first: an agent has the first that holds for it."""
REASONS: Final[Sequence[Reason]] = get_args(Reason)

HELD_AGAINST_FOR: Final = timedelta(days=7)
"""So long an agent is judged by what the ledger says that it did."""
ENDS_SOON: Final = timedelta(days=1)
"""Agents renew at two thirds of a certificate's life: what ends within a day was not renewed."""
LOW_TRUST: Final = 50

# What the ledger's entries about an agent say of it.
DEEDS: Final[Mapping[str, Reason]] = {
    "agent.reported.decryption.failed": "decryption-failed",
    "agent.reported.signature.refused": "signature-refused",
    "agent.reported.package.refused": "signature-refused",
    "agent.reported.policy.violation": "policy-violation",
    "agent.denied": "operation-denied",
    "event.conflict": "conflicting-events",
    "agent.flooding": "flooding",
    "event.malformed": "unreadable-messages",
    "message.poisoned": "unreadable-messages",
}


class Standing:
    """The expression at a moment, and the join that it needs; `agents` and `agent_status` are the
    query's own."""

    def __init__(self, now: datetime) -> None:
        event = ledger_events.c
        # The gravest by its place among the reasons; an id that nothing has is no agent's.
        grave = sa.case({type: REASONS.index(why) for type, why in DEEDS.items()}, value=event.type)
        agent_id = sa.case((event.subject_id != "unknown", sa.cast(event.subject_id, sa.Uuid)))
        self._deeds = (
            sa.select(agent_id.label("agent_id"), sa.func.min(grave).label("gravest"))
            .where(
                event.type.in_(list(DEEDS)),
                event.subject_kind == "agent",
                event.time > sa.literal(now - HELD_AGAINST_FOR, Time),
            )
            .group_by(agent_id)
            .subquery("deeds")
        )
        # Joined as a whole: one look at each certificate's index is ten times as slow, and a NOT IN
        # is not hashed any more once it is large.
        self._held = (
            sa.select(certificates.c.agent_id, sa.func.max(certificates.c.not_after).label("until"))
            .where(certificates.c.superseded_at.is_(None))
            .group_by(certificates.c.agent_id)
            .subquery("held")
        )
        self.reason: sa.ColumnElement[str] = sa.case(
            *((self._holds(reason, now), sa.literal(reason)) for reason in REASONS[:-1]),
            else_=sa.literal(REASONS[-1]),
        )
        self.concerned: sa.ColumnElement[bool] = sa.or_(
            agents.c.status == "active",
            # One whose device has come back as another agent is nobody's any more.
            sa.and_(agents.c.status == "revoked", agents.c.released_at.is_(None)),
        )

    def join(self, query: sa.Select[Any]) -> sa.Select[Any]:
        """Return the query with each agent's deeds and its last certificate."""
        return query.outerjoin(self._deeds, self._deeds.c.agent_id == agents.c.id).outerjoin(
            self._held, self._held.c.agent_id == agents.c.id
        )

    def _holds(self, reason: Reason, now: datetime) -> sa.ColumnElement[bool]:
        presence = sa.func.coalesce(agent_status.c.presence, "never")
        match reason:
            case "revoked":
                return agents.c.status == "revoked"
            case "low-trust":
                return sa.func.coalesce(agent_status.c.trust_score, 100) < LOW_TRUST
            case "certificate-expired":
                return self._ends_by(now)
            case "certificate-ends-soon":
                return self._ends_by(now + ENDS_SOON)
            case "offline" | "late":
                return presence == reason
            case "never-seen":
                return presence == "never"
            case _:
                return self._deeds.c.gravest == REASONS.index(reason)

    def _ends_by(self, moment: datetime) -> sa.ColumnElement[bool]:
        until = self._held.c.until
        return sa.or_(until.is_(None), until <= sa.literal(moment, Time))


async def count_agents_by_reason(
    session: AsyncSession, *, now: datetime
) -> list[tuple[str, str, Reason, int]]:
    """Return (fleet, its name, reason, agents) for every reason that somebody has.

    Reads every agent; api/compliance/sunburst.py keeps what is looked at often.
    """
    standing = Standing(now)
    counted = (
        standing.join(
            sa.select(
                agents.c.fleet, standing.reason.label("reason"), sa.func.count().label("agents")
            )
            .select_from(agents)
            .outerjoin(agent_status, agent_status.c.agent_id == agents.c.id)
        )
        .where(standing.concerned)
        .group_by(agents.c.fleet, "reason")
        .subquery("counted")
    )
    query = (
        sa.select(counted.c.fleet, fleets.c.name, counted.c.reason, counted.c.agents)
        .join(fleets, fleets.c.slug == counted.c.fleet)
        .order_by(counted.c.fleet, counted.c.reason)
    )
    return [(row[0], row[1], row[2], row[3]) for row in await session.execute(query)]
