"""Reading publishers: their keys, what they have signed, and which agents have heard of it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.store.tables import agent_state, agent_status, agents, packages, publishers


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """A key that may sign packages whose name matches one of `names`, from and until a time.

    `succeeds`: the publisher whose place it takes. `told_in`: the trust bundle with which agents
    learn what this says; None while there is none.
    """

    kid: str
    name: str
    alg: str
    public: bytes
    names: list[str]
    not_before: datetime
    not_after: datetime
    created_at: datetime
    created_by: str
    succeeds: str | None = None
    revoked_at: datetime | None = None
    revoked_reason: str | None = None
    told_in: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentBelief:
    """An active agent and the trust bundle that it last said it has; None: it has said nothing."""

    id: UUID
    name: str
    fleet: str
    presence: str
    trust_version: int | None
    told: bool


async def find_publisher(
    session: AsyncSession, kid: str, *, lock: bool = False
) -> Publisher | None:
    """Return the publisher with this key id; locked until the transaction ends if `lock`."""
    query = sa.select(publishers).where(publishers.c.kid == kid)
    if lock:
        query = query.with_for_update()
    row = (await session.execute(query)).mappings().one_or_none()
    return None if row is None else Publisher(**row)


async def find_successor(session: AsyncSession, kid: str) -> Publisher | None:
    """Return the publisher, not revoked, who takes the place of this one."""
    query = sa.select(publishers).where(
        publishers.c.succeeds == kid, publishers.c.revoked_at.is_(None)
    )
    row = (await session.execute(query)).mappings().one_or_none()
    return None if row is None else Publisher(**row)


async def list_publishers(session: AsyncSession) -> list[Publisher]:
    """Return every publisher, the revoked ones too, oldest first; they are few."""
    query = sa.select(publishers).order_by(publishers.c.created_at, publishers.c.kid)
    return [Publisher(**row) for row in (await session.execute(query)).mappings()]


async def list_unrevoked_publishers(session: AsyncSession) -> list[Publisher]:
    """Return the publishers who are not revoked, whatever their validity; the longest first."""
    query = (
        sa.select(publishers)
        .where(publishers.c.revoked_at.is_(None))
        .order_by(publishers.c.not_after.desc(), publishers.c.kid)
    )
    return [Publisher(**row) for row in (await session.execute(query)).mappings()]


async def count_packages(session: AsyncSession) -> dict[str, int]:
    """Return how many packages each publisher answers for, by key id."""
    query = sa.select(packages.c.publisher_kid, sa.func.count()).group_by(packages.c.publisher_kid)
    return {kid: count for kid, count in await session.execute(query)}


async def count_active_agents(session: AsyncSession) -> dict[int | None, int]:
    """Return how many active agents have said that they have each trust bundle."""
    query = (
        sa.select(agent_state.c.trust_version, sa.func.count())
        .select_from(agents.outerjoin(agent_state, agent_state.c.agent_id == agents.c.id))
        .where(agents.c.status == "active")
        .group_by(agent_state.c.trust_version)
    )
    return {version: count for version, count in await session.execute(query)}


async def list_beliefs(
    session: AsyncSession,
    told_in: int | None,
    *,
    told: bool | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[AgentBelief]:
    """Return active agents by rising id, beyond `after`, and whether they have bundle `told_in`.

    `told` asks for only those who have it, or who have not.
    """
    version = agent_state.c.trust_version
    has = sa.false() if told_in is None else sa.func.coalesce(version >= told_in, sa.false())
    query = (
        sa.select(
            agents.c.id,
            agents.c.name,
            agents.c.fleet,
            sa.func.coalesce(agent_status.c.presence, "never").label("presence"),
            version,
            has.label("told"),
        )
        .select_from(
            agents.outerjoin(agent_state, agent_state.c.agent_id == agents.c.id).outerjoin(
                agent_status, agent_status.c.agent_id == agents.c.id
            )
        )
        .where(agents.c.status == "active")
        .order_by(agents.c.id)
    )
    if told is not None:
        query = query.where(has if told else sa.not_(has))
    if after is not None:
        query = query.where(agents.c.id > after)
    return [AgentBelief(**row) for row in (await session.execute(query.limit(limit))).mappings()]
