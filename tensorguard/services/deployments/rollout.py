"""The controller's steps: each one transaction, idempotent, so that any leader can go on.

A step skips rows that somebody else has locked: it never waits, and the next one finds them.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.protocol.messages import ReleaseRef
from tensorguard.rollouts.states import (
    AT_WORK,
    OPEN,
    PRESUMED,
    STARTED,
    AgentState,
    DeploymentState,
    find_ending,
)
from tensorguard.services.deployments import desired
from tensorguard.services.deployments.deployments import move_deployment, strategy_of
from tensorguard.services.deployments.desired import Content, Recipient
from tensorguard.services.deployments.packages import get_package
from tensorguard.services.evidence.events import SYSTEM, DeploymentCompleted
from tensorguard.services.hints import Hint, HintKind, tell
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.deployments import Deployment
from tensorguard.store.tables import agents, deployment_stages, deployments

BATCH_AGENTS: Final = 500
BEFORE_ALL: Final = UUID(int=0)
# How long nothing must have been heard of an agent that is at work: the greater of these.
LOST_AFTER: Final = timedelta(minutes=2)
LOST_AFTER_INTERVALS: Final = 3
_LOCK: Final = 7290431


async def lead(session: AsyncSession) -> bool:
    """Become the one controller until the transaction ends, unless another is."""
    # Tables grow by orders of magnitude between two steps: a plan that was kept would be a bad one.
    await session.execute(sa.text("SET LOCAL plan_cache_mode = force_custom_plan"))
    query = sa.select(sa.func.pg_try_advisory_xact_lock(_LOCK))
    return bool((await session.execute(query)).scalar())


async def assign_next(
    session: AsyncSession,
    keyring: Keyring,
    deployment: Deployment,
    *,
    now: datetime,
    after: UUID = BEFORE_ALL,
    limit: int = BATCH_AGENTS,
) -> list[UUID]:
    """Sign desired documents for the next pending agents beyond `after`; return who it was about.

    An agent that a later deployment has already is superseded; one that was revoked, excluded.
    """
    parameters = {
        "id": deployment.id,
        "stage": deployment.stage,
        "started_at": deployment.started_at,
        "after": after,
        "limit": limit,
    }
    rows = (await session.execute(_PENDING, parameters)).all()
    if not rows:
        return []
    recipients = await _lock_active([row.agent_id for row in rows if not row.later], session)
    active = {recipient.agent_id for recipient in recipients}
    await _end(
        session,
        deployment.id,
        [row.agent_id for row in rows if row.later],
        AgentState.SUPERSEDED,
        "a later deployment has this agent",
        now,
    )
    gone = [row.agent_id for row in rows if not row.later and row.agent_id not in active]
    await _end(session, deployment.id, gone, AgentState.EXCLUDED, "revoked", now)
    if recipients:
        content = await _content(session, deployment)
        await desired.assign(session, keyring, content, recipients, owner=deployment.id, now=now)
        older = await session.execute(
            _SUPERSEDE,
            {
                "id": deployment.id,
                "ids": [recipient.agent_id for recipient in recipients],
                "open": list(OPEN),
                "now": now,
            },
        )
        left = [Hint(HintKind.DEPLOYMENT, str(one)) for one in set(older.scalars())]
        await tell(session, left, now=now)
    await _tell(session, deployment, now)
    return [row.agent_id for row in rows]


async def observe(
    session: AsyncSession, deployment: Deployment, *, now: datetime, watching_since: datetime
) -> int:
    """Move agents by what the tables show: notified, succeeded, timed_out, lost, excluded.

    `watching_since`: since when heartbeats are being read; silence before it proves nothing.
    """
    timeout = strategy_of(deployment).timeouts.in_progress
    result = await session.execute(
        _OBSERVE,
        {
            "id": deployment.id,
            "digest": deployment.package_digest,
            "watched": [*OPEN, *PRESUMED],
            "at_work": list(AT_WORK),
            "started": list(STARTED),
            "now": now,
            "started_before": now - timeout,
            "timed_out_reason": f"not done {timeout.total_seconds():g} s after it began",
            "watching_since": watching_since,
            "lost_after": LOST_AFTER,
            "intervals": LOST_AFTER_INTERVALS,
        },
    )
    moved = int(result.rowcount)  # type: ignore[attr-defined] # an UPDATE's result counts
    if moved:
        await _tell(session, deployment, now)
    return moved


async def complete(
    session: AsyncSession, deployment: Deployment, *, now: datetime, watching_since: datetime
) -> bool:
    """Complete a running deployment when nobody in it is on the way any more."""
    rows = (await session.execute(_COUNT, {"id": deployment.id})).all()
    counts = {AgentState(row.state): row.agents for row in rows}
    reachable = sum(row.reachable for row in rows)
    started_at = deployment.started_at or now
    waited = now - max(started_at, watching_since) >= LOST_AFTER
    ending = find_ending(counts, reachable=reachable, waited=waited)
    if ending is None:
        return False
    event = DeploymentCompleted(
        by=SYSTEM,
        deployment_id=deployment.id,
        reason=ending or None,
        succeeded=counts.get(AgentState.SUCCEEDED, 0),
        failed=sum(counts.get(state, 0) for state in (AgentState.FAILED, *PRESUMED)),
    )
    await move_deployment(
        session, deployment, event, DeploymentState.COMPLETED, now=now, finished=True
    )
    stage = deployment_stages.c
    await session.execute(
        sa.update(deployment_stages)
        .where(stage.deployment_id == deployment.id, stage.finished_at.is_(None))
        .values(finished_at=now)
    )
    return True


async def withdraw_next(
    session: AsyncSession,
    keyring: Keyring,
    deployment: Deployment,
    *,
    now: datetime,
    limit: int = BATCH_AGENTS,
) -> int:
    """Take an aborted deployment's documents back from agents that have not acted on them.

    They are told to run what they ran before. Returns how many rows were dealt with; at none
    left the deployment is over.
    """
    rows = (await session.execute(_WITHDRAWABLE, {"id": deployment.id, "limit": limit})).all()
    before: dict[bytes | None, list[UUID]] = {}
    for row in rows:
        if row.assigned:
            previous = None if row.previous_digest is None else bytes(row.previous_digest)
            before.setdefault(previous, []).append(row.agent_id)
    for digest, ids in before.items():
        recipients = await _lock_active(ids, session)
        content = await content_before(session, digest)
        await desired.assign(session, keyring, content, recipients, owner=deployment.id, now=now)
    ended = [row.agent_id for row in rows]
    await _end(session, deployment.id, ended, AgentState.SUPERSEDED, "aborted", now)
    if rows:
        await _tell(session, deployment, now)
    if not rows and not (await session.execute(_LEFT, {"id": deployment.id})).scalar():
        await session.execute(
            sa.update(deployments).where(deployments.c.id == deployment.id).values(finished_at=now)
        )
    return len(rows)


async def _tell(session: AsyncSession, deployment: Deployment, now: datetime) -> None:
    fleet = deployment.fleets[0] if len(deployment.fleets) == 1 else None
    await tell(session, [Hint(HintKind.DEPLOYMENT, str(deployment.id), fleet)], now=now)


async def _content(session: AsyncSession, deployment: Deployment) -> Content:
    package = await get_package(session, deployment.package_digest)
    return Content(
        deployment_id=deployment.id,
        release=ReleaseRef(name=deployment.release_name, version=deployment.release_version),
        package_digest=package.digest,
        package_size_bytes=package.size_bytes,
        min_seq=package.seq,
        allow_downgrade=strategy_of(deployment).allow_downgrade,
    )


async def content_before(session: AsyncSession, digest: bytes | None) -> Content:
    """Return what an agent ran before: exactly this package, or whatever it runs."""
    if digest is None:
        return Content(deployment_id=None, release=None, package_digest=None)
    package = await get_package(session, digest)
    return Content(
        deployment_id=None,
        release=None,
        package_digest=digest,
        package_size_bytes=package.size_bytes,
        min_seq=package.seq,
        allow_downgrade=True,
    )


async def _lock_active(ids: Sequence[UUID], session: AsyncSession) -> list[Recipient]:
    """Return the active ones of these agents; none of them can be revoked before the commit."""
    rows = await session.execute(
        sa.select(agents.c.id, agents.c.tags)
        .where(agents.c.id.in_(ids), agents.c.status == "active")
        .order_by(agents.c.id)
        .with_for_update(read=True)
    )
    return [Recipient(agent_id, tags) for agent_id, tags in rows]


async def _end(
    session: AsyncSession,
    deployment_id: UUID,
    ids: Sequence[UUID],
    state: AgentState,
    reason: str,
    now: datetime,
) -> None:
    if ids:
        parameters = {"id": deployment_id, "ids": list(ids), "state": state, "reason": reason}
        await session.execute(_END, parameters | {"now": now})


_PENDING = sa.text("""
    SELECT row.agent_id,
           coalesce(other.state <> 'aborted' AND (other.started_at, other.id)
                    > (CAST(:started_at AS timestamptz), row.deployment_id), false) AS later
    FROM deployment_agents AS row
    LEFT JOIN agent_desired AS document ON document.agent_id = row.agent_id
    LEFT JOIN deployments AS other ON other.id = document.deployment_id
    WHERE row.deployment_id = :id AND row.state = 'pending' AND row.stage <= :stage
      AND row.agent_id > :after
      AND document.deployment_id IS DISTINCT FROM row.deployment_id
    ORDER BY row.agent_id
    LIMIT :limit
    FOR NO KEY UPDATE OF row SKIP LOCKED
""")
_END = sa.text("""
    UPDATE deployment_agents
    SET state = :state, reason = :reason, finished_at = :now, updated_at = :now
    WHERE deployment_id = :id AND agent_id = ANY(CAST(:ids AS uuid[]))
""")
_SUPERSEDE = sa.text("""
    WITH older AS (
        SELECT row.deployment_id, row.agent_id
        FROM deployment_agents AS row
        WHERE row.agent_id = ANY(CAST(:ids AS uuid[])) AND row.deployment_id <> :id
          AND row.state = ANY(CAST(:open AS text[]))
          AND EXISTS (SELECT FROM agent_desired AS document WHERE document.agent_id = row.agent_id
                      AND document.deployment_id = :id)
        ORDER BY row.agent_id
        FOR NO KEY UPDATE OF row SKIP LOCKED
    )
    UPDATE deployment_agents AS row
    SET state = 'superseded', reason = 'a later deployment has this agent',
        finished_at = :now, updated_at = :now
    FROM older
    WHERE row.deployment_id = older.deployment_id AND row.agent_id = older.agent_id
    RETURNING row.deployment_id
""")
_OBSERVE = sa.text("""
    WITH seen AS (
        SELECT row.agent_id, found.next
        FROM deployment_agents AS row
        JOIN agents ON agents.id = row.agent_id
        LEFT JOIN agent_desired AS document
               ON document.agent_id = row.agent_id AND document.deployment_id = row.deployment_id
        LEFT JOIN agent_state AS state ON state.agent_id = row.agent_id
        LEFT JOIN agent_status AS status ON status.agent_id = row.agent_id
        LEFT JOIN fleet_configs AS config ON config.fleet = agents.fleet
        CROSS JOIN LATERAL (SELECT CASE
            WHEN agents.status <> 'active' THEN 'excluded'
            WHEN state.package_digest = CAST(:digest AS bytea)
             AND (state.desired_epoch, state.desired_revision)
                 >= (document.epoch, document.revision) THEN 'succeeded'
            WHEN row.state = ANY(CAST(:started AS text[])) AND row.started_at < :started_before
                THEN 'timed_out'
            WHEN row.state = ANY(CAST(:at_work AS text[]))
             AND greatest(state.received_at, row.notified_at, CAST(:watching_since AS timestamptz))
                 < CAST(:now AS timestamptz)
                   - greatest(CAST(:lost_after AS interval), CAST(:intervals AS integer)
                              * make_interval(secs => coalesce(config.heartbeat_interval_s, 0)))
                THEN 'lost'
            WHEN row.state = 'pending' AND document.sent_at IS NOT NULL
             AND status.presence IN ('online', 'late') THEN 'notified'
        END) AS found (next)
        WHERE row.deployment_id = :id AND row.state = ANY(CAST(:watched AS text[]))
          AND found.next <> row.state
        ORDER BY row.agent_id
        FOR NO KEY UPDATE OF row SKIP LOCKED
    )
    UPDATE deployment_agents AS row
    SET state = seen.next,
        reason = CASE seen.next WHEN 'excluded' THEN 'revoked' WHEN 'lost' THEN 'no heartbeat'
                                WHEN 'timed_out' THEN :timed_out_reason ELSE '' END,
        percent = CASE seen.next WHEN 'succeeded' THEN 100 ELSE row.percent END,
        notified_at = coalesce(row.notified_at, CAST(:now AS timestamptz)),
        finished_at = CASE seen.next WHEN 'notified' THEN NULL ELSE CAST(:now AS timestamptz) END,
        updated_at = :now
    FROM seen
    WHERE row.deployment_id = :id AND row.agent_id = seen.agent_id
""")
_COUNT = sa.text("""
    SELECT row.state, count(*) AS agents,
           count(*) FILTER (WHERE row.state = 'pending'
                              AND status.presence IN ('online', 'late')) AS reachable
    FROM deployment_agents AS row
    LEFT JOIN agent_status AS status ON status.agent_id = row.agent_id
    WHERE row.deployment_id = :id
    GROUP BY row.state
""")
_WITHDRAWABLE = sa.text("""
    SELECT row.agent_id, row.previous_digest,
           document.deployment_id IS NOT DISTINCT FROM row.deployment_id AS assigned
    FROM deployment_agents AS row
    LEFT JOIN agent_desired AS document ON document.agent_id = row.agent_id
    WHERE row.deployment_id = :id AND row.state IN ('pending', 'notified')
    ORDER BY row.agent_id
    LIMIT :limit
    FOR NO KEY UPDATE OF row SKIP LOCKED
""")
_LEFT = sa.text("""
    SELECT EXISTS (SELECT FROM deployment_agents
                   WHERE deployment_id = :id AND state IN ('pending', 'notified'))
""")
