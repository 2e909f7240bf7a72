"""Giving agents their documents: the release in its turn, and what they ran before it, back.

Steps are one transaction each and idempotent, so that any leader can go on. They skip rows that
somebody else has locked: they never wait, and the next one finds them.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.protocol.messages import ReleaseRef
from tensorguard.rollouts.ramp import SLICE, allowance
from tensorguard.rollouts.states import OPEN, AgentState
from tensorguard.rollouts.windows import AGENT_TIMEZONE, closed_zones, is_open
from tensorguard.services.deployments import desired
from tensorguard.services.deployments.desired import Content, Recipient
from tensorguard.services.deployments.membership import strategy_of
from tensorguard.services.deployments.moving import tell_of
from tensorguard.services.deployments.packages import get_package
from tensorguard.services.hints import Hint, HintKind, tell
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.deployments import Deployment
from tensorguard.store.tables import agents, deployments

BATCH_AGENTS: Final = 500
BEFORE_ALL: Final = UUID(int=0)
_MINUTE: Final = timedelta(minutes=1)


async def assign_next(
    session: AsyncSession,
    keyring: Keyring,
    deployment: Deployment,
    *,
    now: datetime,
    after: UUID = BEFORE_ALL,
    limit: int = BATCH_AGENTS,
) -> list[UUID]:
    """Sign documents for the next agents beyond `after` whose turn it is, as many as ramp and
    window let begin; return who it was about.

    An agent that a later deployment has already is superseded; one that was revoked, excluded.
    """
    closed = await _find_closed_zones(session, deployment, now)
    if closed is None:
        return []
    limit = min(limit, await _count_allowed(session, deployment, now, limit))
    parameters = {
        "id": deployment.id,
        "stage": deployment.stage,
        "started_at": deployment.started_at,
        "after": after,
        "limit": limit,
        "closed": closed,
        "any_zone": not closed,
    }
    rows = (await session.execute(_PENDING, parameters)).all() if limit else []
    if not rows:
        return []
    recipients = await lock_active(session, [row.agent_id for row in rows if not row.later])
    active = {recipient.agent_id for recipient in recipients}
    later = [row.agent_id for row in rows if row.later]
    why = "a later deployment has this agent"
    await _end(session, deployment.id, later, AgentState.SUPERSEDED, why, now)
    gone = [row.agent_id for row in rows if not row.later and row.agent_id not in active]
    await _end(session, deployment.id, gone, AgentState.EXCLUDED, "revoked", now)
    if recipients:
        content = await _content(session, deployment)
        await desired.assign(session, keyring, content, recipients, owner=deployment.id, now=now)
        values = {"id": deployment.id, "ids": sorted(active), "now": now}
        await session.execute(_ASSIGNED, values)
        older = await session.execute(_SUPERSEDE, values | {"open": list(OPEN)})
        left = [Hint(HintKind.DEPLOYMENT, str(one)) for one in set(older.scalars())]
        await tell(session, left, now=now)
    await tell_of(session, deployment, now)
    return [row.agent_id for row in rows]


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
    for digest, ids in _by_digest(row for row in rows if row.assigned).items():
        recipients = await lock_active(session, ids)
        content = await content_before(session, digest)
        await desired.assign(session, keyring, content, recipients, owner=deployment.id, now=now)
    ended = [row.agent_id for row in rows]
    await _end(session, deployment.id, ended, AgentState.SUPERSEDED, "aborted", now)
    is_over = not rows and not (await session.execute(_LEFT, {"id": deployment.id})).scalar()
    if is_over:
        await session.execute(
            sa.update(deployments).where(deployments.c.id == deployment.id).values(finished_at=now)
        )
    if rows or is_over:
        await tell_of(session, deployment, now)
    return len(rows)


async def return_next(
    session: AsyncSession,
    keyring: Keyring,
    deployment: Deployment,
    *,
    now: datetime,
    after: UUID = BEFORE_ALL,
    limit: int = BATCH_AGENTS,
) -> list[UUID]:
    """Tell the next agents beyond `after` to run what they ran before; return who it was about.

    At once where that is still on the device, through the ramp where it has to be downloaded.
    """
    allowed = await _count_allowed(session, deployment, now, limit, back=True)
    parameters = {
        "id": deployment.id,
        "digest": deployment.package_digest,
        "after": after,
        "limit": limit,
        "downloads": allowed,
    }
    rows = (await session.execute(_RETURNING, parameters)).all()
    given: list[UUID] = []
    for digest, ids in _by_digest(row for row in rows if row.assigned).items():
        recipients = await lock_active(session, ids)
        content = await content_before(session, digest, deployment_id=deployment.id)
        await desired.assign(session, keyring, content, recipients, owner=deployment.id, now=now)
        given += [recipient.agent_id for recipient in recipients]
    for state, ids in (
        ("assigned", given),
        ("superseded", [row.agent_id for row in rows if not row.assigned]),
        ("gone", [row.agent_id for row in rows if row.assigned and row.agent_id not in set(given)]),
    ):
        if ids:
            values = {"id": deployment.id, "ids": ids, "state": state, "now": now}
            await session.execute(_SET_ROLLBACK, values)
    if rows:
        await tell_of(session, deployment, now)
    return [row.agent_id for row in rows]


async def content_before(
    session: AsyncSession, digest: bytes | None, *, deployment_id: UUID | None = None
) -> Content:
    """Return what an agent ran before: exactly this package, or whatever it runs.

    `deployment_id`: the one that is rolled back, of which the agent is to report.
    """
    if digest is None:
        return Content(deployment_id=deployment_id, release=None, package_digest=None)
    package = await get_package(session, digest)
    release = None
    if deployment_id is not None:
        release = ReleaseRef(name=package.name[:64], version=package.version[:64])
    return Content(
        deployment_id=deployment_id,
        release=release,
        package_digest=digest,
        package_size_bytes=package.size_bytes,
        min_seq=package.seq,
        allow_downgrade=True,
    )


async def lock_active(session: AsyncSession, ids: Sequence[UUID]) -> list[Recipient]:
    """Return the active ones of these agents; none of them can be revoked before the commit."""
    if not ids:
        return []
    rows = await session.execute(
        sa.select(agents.c.id, agents.c.tags)
        .where(agents.c.id.in_(ids), agents.c.status == "active")
        .order_by(agents.c.id)
        .with_for_update(read=True)
    )
    return [Recipient(agent_id, tags) for agent_id, tags in rows]


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


async def _find_closed_zones(
    session: AsyncSession, deployment: Deployment, now: datetime
) -> list[str] | None:
    """Return the time zones (as agents say them) where nobody may begin; None: it is nowhere."""
    window = strategy_of(deployment).window
    if window is None:
        return []
    if window.timezone != AGENT_TIMEZONE:
        return [] if is_open(window, now) else None
    zones = (
        await session.execute(_ZONES, {"id": deployment.id, "stage": deployment.stage})
    ).scalars()
    return [zone or "" for zone in closed_zones(window, zones, now)]


async def _count_allowed(
    session: AsyncSession, deployment: Deployment, now: datetime, limit: int, *, back: bool = False
) -> int:
    """Return how many agents the ramp lets begin now, at most `limit`."""
    ramp = strategy_of(deployment).ramp
    if ramp is None:
        return limit
    values = {"id": deployment.id, "minute": now - _MINUTE, "slice": now - SLICE}
    row = (await session.execute(_BEGUN, values)).one()
    successes = row.back if back else row.successes
    most = allowance(ramp, successes=successes, last_minute=row.minute, last_slice=row.slice)
    return min(limit, most)


def _by_digest(rows: Any) -> dict[bytes | None, list[UUID]]:
    found: dict[bytes | None, list[UUID]] = {}
    for row in rows:
        digest = None if row.previous_digest is None else bytes(row.previous_digest)
        found.setdefault(digest, []).append(row.agent_id)
    return found


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


# Chosen by one table's key alone, and looked up one by one: tables that were small a moment ago
# would be joined whole for each batch.
_PENDING = sa.text("""
    WITH turn AS (
        SELECT row.agent_id
        FROM deployment_agents AS row
        WHERE row.deployment_id = :id AND row.state = 'pending' AND row.stage <= :stage
          AND row.agent_id > :after AND row.assigned_at IS NULL
          AND (CAST(:any_zone AS boolean)
               OR coalesce((SELECT agents.facts ->> 'timezone' FROM agents
                            WHERE agents.id = row.agent_id), '') <> ALL(CAST(:closed AS text[])))
        ORDER BY row.agent_id
        LIMIT :limit
        FOR NO KEY UPDATE OF row SKIP LOCKED
    )
    SELECT turn.agent_id, EXISTS (
        SELECT FROM deployments AS other
        WHERE other.id = (SELECT document.deployment_id FROM agent_desired AS document
                          WHERE document.agent_id = turn.agent_id)
          AND other.id <> :id AND other.state NOT IN ('aborted', 'rolling_back', 'rolled_back')
          AND (other.started_at, other.id) > (CAST(:started_at AS timestamptz), CAST(:id AS uuid))
    ) AS later
    FROM turn ORDER BY turn.agent_id
""")
_ZONES = sa.text("""
    SELECT DISTINCT agents.facts ->> 'timezone'
    FROM deployment_agents AS row JOIN agents ON agents.id = row.agent_id
    WHERE row.deployment_id = :id AND row.state = 'pending' AND row.stage <= :stage
      AND row.assigned_at IS NULL
""")
_BEGUN = sa.text("""
    SELECT count(*) FILTER (WHERE assigned_at > :minute) AS minute,
           count(*) FILTER (WHERE assigned_at > :slice) AS slice,
           count(*) FILTER (WHERE state = 'succeeded') AS successes,
           count(*) FILTER (WHERE rollback = 'done') AS back
    FROM deployment_agents WHERE deployment_id = :id
""")
_ASSIGNED = sa.text("""
    UPDATE deployment_agents SET assigned_at = :now, updated_at = :now
    WHERE deployment_id = :id AND agent_id = ANY(CAST(:ids AS uuid[]))
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
          AND (row.state = ANY(CAST(:open AS text[]))
               OR row.rollback IN ('waiting', 'assigned'))
          AND EXISTS (SELECT FROM agent_desired AS document WHERE document.agent_id = row.agent_id
                      AND document.deployment_id = :id)
        ORDER BY row.agent_id
        FOR NO KEY UPDATE OF row SKIP LOCKED
    )
    UPDATE deployment_agents AS row
    SET state = CASE WHEN row.state = ANY(CAST(:open AS text[])) THEN 'superseded'
                     ELSE row.state END,
        reason = CASE WHEN row.state = ANY(CAST(:open AS text[]))
                      THEN 'a later deployment has this agent' ELSE row.reason END,
        rollback = CASE WHEN row.rollback IN ('waiting', 'assigned') THEN 'superseded'
                        ELSE row.rollback END,
        finished_at = :now, updated_at = :now
    FROM older
    WHERE row.deployment_id = older.deployment_id AND row.agent_id = older.agent_id
    RETURNING row.deployment_id
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
# An agent that runs the release has the one before beside it; one that runs something else than
# either has to fetch it.
_RETURNING = sa.text("""
    WITH waiting AS (
        SELECT row.agent_id, row.previous_digest,
               document.deployment_id IS NOT DISTINCT FROM row.deployment_id AS assigned,
               row.previous_digest IS NOT NULL
               AND state.package_digest IS DISTINCT FROM row.previous_digest
               AND state.package_digest IS DISTINCT FROM CAST(:digest AS bytea) AS must_download
        FROM deployment_agents AS row
        LEFT JOIN agent_desired AS document ON document.agent_id = row.agent_id
        LEFT JOIN agent_state AS state ON state.agent_id = row.agent_id
        WHERE row.deployment_id = :id AND row.rollback = 'waiting' AND row.agent_id > :after
        ORDER BY row.agent_id
        FOR NO KEY UPDATE OF row SKIP LOCKED
    ), numbered AS (
        SELECT waiting.*, row_number() OVER (PARTITION BY must_download ORDER BY agent_id) AS place
        FROM waiting
    )
    SELECT agent_id, previous_digest, assigned FROM numbered
    WHERE NOT must_download OR place <= :downloads
    ORDER BY agent_id
    LIMIT :limit
""")
_SET_ROLLBACK = sa.text("""
    UPDATE deployment_agents
    SET rollback = :state, assigned_at = CASE WHEN :state = 'assigned' THEN :now
                                              ELSE assigned_at END, updated_at = :now
    WHERE deployment_id = :id AND agent_id = ANY(CAST(:ids AS uuid[]))
""")
