"""What agents say of deployments, and what their heartbeats prove."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.protocol.messages import Progress
from tensorguard.rollouts.states import (
    AT_WORK,
    STARTED,
    AgentState,
    RollbackState,
    next_agent_state,
)


@dataclass(frozen=True, slots=True)
class Applied:
    """How many messages were applied, and how many could not be: unknown or not legal here.

    `deployments` are those in which an agent moved.
    """

    applied: int
    ignored: int
    deployments: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class _Row:
    """One agent in one deployment, as far as its own word can change it."""

    deployment_id: UUID
    agent_id: UUID
    state: AgentState
    reason: str
    percent: int | None
    notified_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    runs_it: bool
    rollback: str | None
    rollback_reason: str


async def apply_progress_many(
    session: AsyncSession, items: Sequence[tuple[UUID, Progress]], *, now: datetime
) -> Applied:
    """Move agents as their progress messages say, in the order of the messages.

    A move that is not legal is ignored and counted: an agent's word never breaks a batch.
    `succeeded` is believed once a heartbeat has named the release's digest.
    """
    rows = await _lock(session, {(agent_id, message.deployment_id) for agent_id, message in items})
    before = dict(rows)
    applied = 0
    for agent_id, message in items:
        place = (agent_id, message.deployment_id)
        row = rows.get(place)
        moved = None if row is None else _apply(row, message, now)
        if moved is not None:
            rows[place] = moved
            applied += 1
    changed = [row for place, row in rows.items() if row != before[place]]
    await _save(session, changed, now)
    moved_in = frozenset(row.deployment_id for row in changed)
    return Applied(applied, len(items) - applied, moved_in)


async def confirm_running(
    session: AsyncSession, running: Mapping[UUID, bytes | None], *, now: datetime
) -> frozenset[UUID]:
    """Take what heartbeats newly say that agents run (a digest, or None): a desired release
    that runs has succeeded, one that no longer runs has failed. Returns in which deployments.

    A success of a deployment that is over stays one: its agents may have gone on since.
    """
    if not running:
        return frozenset()
    ids = sorted(running)
    digests = [running[one] for one in ids]
    moved = await session.execute(_CONFIRM, {"ids": ids, "digests": digests, "now": now})
    return frozenset(moved.scalars())


def _apply(row: _Row, message: Progress, now: datetime) -> _Row | None:
    """Return the row after a message; None where the message has no place in its state."""
    reported = AgentState(message.state)
    if row.rollback is not None:
        return _apply_back(row, reported, message)
    state = next_agent_state(row.state, reported, runs_it=row.runs_it)
    waits = reported is AgentState.SUCCEEDED and not row.runs_it
    if state is not (AgentState.ACTIVATING if waits else reported):
        return None
    moved = state is not row.state
    percent = 100 if reported is AgentState.SUCCEEDED else message.percent
    return replace(
        row,
        state=state,
        reason=(message.reason or "")[:500],
        percent=percent if percent is not None or moved else row.percent,
        notified_at=row.notified_at or now,
        started_at=(row.started_at or now) if state in STARTED else row.started_at,
        finished_at=None if state in AT_WORK else (now if moved else row.finished_at),
    )


def _apply_back(row: _Row, reported: AgentState, message: Progress) -> _Row | None:
    """Take an agent's word on its way back: only that it cannot go counts; the rest is seen."""
    if row.rollback != RollbackState.ASSIGNED:
        return None
    if reported in (AgentState.FAILED, AgentState.REJECTED):
        reason = (message.reason or "")[:500]
        return replace(row, rollback=RollbackState.FAILED, rollback_reason=reason)
    return row


async def _lock(
    session: AsyncSession, places: set[tuple[UUID, UUID]]
) -> dict[tuple[UUID, UUID], _Row]:
    if not places:
        return {}
    ordered = sorted(places)
    rows = await session.execute(
        _LOCK, {"agents": [one for one, _ in ordered], "deployments": [two for _, two in ordered]}
    )
    return {
        (row["agent_id"], row["deployment_id"]): _Row(**{**row, "state": AgentState(row["state"])})
        for row in rows.mappings()
    }


async def _save(session: AsyncSession, rows: Sequence[_Row], now: datetime) -> None:
    if not rows:
        return
    columns = (
        "deployment_id",
        "agent_id",
        "state",
        "reason",
        "percent",
        "notified_at",
        "started_at",
        "finished_at",
        "rollback",
        "rollback_reason",
    )
    values = {name: [getattr(row, name) for row in rows] for name in columns}
    await session.execute(_SAVE, values | {"now": now})


_LOCK = sa.text("""
    SELECT row.deployment_id, row.agent_id, row.state, row.reason, row.percent, row.notified_at,
           row.started_at, row.finished_at, row.rollback, row.rollback_reason,
           coalesce(state.package_digest = release.package_digest, false) AS runs_it
    FROM unnest(CAST(:agents AS uuid[]), CAST(:deployments AS uuid[]))
         AS place (agent_id, deployment_id)
    JOIN deployment_agents AS row USING (agent_id, deployment_id)
    JOIN deployments AS deployment ON deployment.id = row.deployment_id
    JOIN releases AS release ON release.id = deployment.release_id
    LEFT JOIN agent_state AS state ON state.agent_id = row.agent_id
    ORDER BY row.agent_id, row.deployment_id
    FOR NO KEY UPDATE OF row
""")
_SAVE = sa.text("""
    UPDATE deployment_agents AS row
    SET state = new.state, reason = new.reason, percent = new.percent,
        notified_at = new.notified_at, started_at = new.started_at,
        finished_at = new.finished_at, rollback = new.rollback,
        rollback_reason = new.rollback_reason, updated_at = :now
    FROM unnest(CAST(:deployment_id AS uuid[]), CAST(:agent_id AS uuid[]), CAST(:state AS text[]),
                CAST(:reason AS text[]), CAST(:percent AS smallint[]),
                CAST(:notified_at AS timestamptz[]), CAST(:started_at AS timestamptz[]),
                CAST(:finished_at AS timestamptz[]), CAST(:rollback AS text[]),
                CAST(:rollback_reason AS text[]))
         AS new (deployment_id, agent_id, state, reason, percent, notified_at, started_at,
                 finished_at, rollback, rollback_reason)
    WHERE row.deployment_id = new.deployment_id AND row.agent_id = new.agent_id
""")
# Only the deployment whose document the agent has: under another it may rightly run another. So may
# one that follows a later document than any there is: the database has been restored since.
_CONFIRM = sa.text("""
    WITH seen AS (
        SELECT row.deployment_id, row.agent_id,
               running.digest IS NOT DISTINCT FROM release.package_digest AS runs_it
        FROM unnest(CAST(:ids AS uuid[]), CAST(:digests AS bytea[])) AS running (agent_id, digest)
        JOIN agent_desired AS document ON document.agent_id = running.agent_id
        JOIN deployment_agents AS row ON row.agent_id = running.agent_id
                                     AND row.deployment_id = document.deployment_id
        JOIN deployments AS deployment ON deployment.id = row.deployment_id
        JOIN releases AS release ON release.id = deployment.release_id
        JOIN agent_state AS state ON state.agent_id = running.agent_id
        WHERE row.rollback IS NULL
          AND CASE WHEN running.digest IS NOT DISTINCT FROM release.package_digest
                   THEN row.state IN ('pending', 'notified', 'downloading', 'verifying',
                                      'activating', 'timed_out', 'lost')
                        OR (row.state = 'failed' AND row.reason = 'lost')
                   ELSE row.state = 'succeeded' AND deployment.state IN ('running', 'paused')
                        AND ((state.desired_epoch, state.desired_revision)
                             > (document.epoch, document.revision)) IS NOT TRUE END
        ORDER BY row.agent_id
        FOR NO KEY UPDATE OF row
    )
    UPDATE deployment_agents AS row
    SET state = CASE WHEN seen.runs_it THEN 'succeeded' ELSE 'failed' END,
        reason = CASE WHEN seen.runs_it THEN '' ELSE 'reverted' END,
        percent = CASE WHEN seen.runs_it THEN 100 ELSE row.percent END,
        notified_at = coalesce(row.notified_at, :now), finished_at = :now, updated_at = :now
    FROM seen
    WHERE row.deployment_id = seen.deployment_id AND row.agent_id = seen.agent_id
    RETURNING row.deployment_id
""")
