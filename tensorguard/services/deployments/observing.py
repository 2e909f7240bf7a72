"""What the tables show of agents in deployments, for all of them at once.

The SQL here says what rollouts.presumption says of one agent; a test holds the two together.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.presumption import LOST_AFTER, LOST_AFTER_INTERVALS, Watch
from tensorguard.rollouts.states import (
    AT_WORK,
    OPEN,
    PRESUMED,
    SILENT,
    STARTED,
    UNHEALTHY,
    AgentState,
    RollbackState,
)
from tensorguard.rollouts.tally import Tally
from tensorguard.services.deployments.membership import strategy_of
from tensorguard.services.deployments.moving import tell_of
from tensorguard.store.deployments import Deployment

OBSERVED_AGENTS: Final = 10_000
FIRST: Final = UUID(int=0)
LAST: Final = UUID(int=2**128 - 1)


async def observe(
    session: AsyncSession,
    deployment: Deployment,
    *,
    watch: Watch,
    now: datetime,
    after: UUID = FIRST,
    limit: int = OBSERVED_AGENTS,
) -> UUID:
    """Move agents by what the tables show: notified, succeeded, timed_out, lost, failed in the
    soak, excluded.

    Looks at the next `limit` agents beyond `after`, and returns after whom to go on: a step must
    not take longer the more agents there are. A small deployment is looked at whole each time.
    """
    strategy = strategy_of(deployment)
    bounds = {"id": deployment.id, "after": after, "skip": limit - 1}
    until: UUID | None = (await session.execute(_UNTIL, bounds)).scalar()
    result = await session.execute(
        _OBSERVE,
        {
            "id": deployment.id,
            "after": after,
            "until": until or LAST,
            "digest": deployment.package_digest,
            "watched": [*OPEN, *PRESUMED, AgentState.SUCCEEDED],
            "at_work": list(AT_WORK),
            "started": list(STARTED),
            "now": now,
            "in_progress": strategy.timeouts.in_progress,
            "begin": strategy.timeouts.begin,
            "not_done": f"not done {strategy.timeouts.in_progress_s:g} s after it began",
            "not_begun": f"did not begin {strategy.timeouts.begin_s:g} s after it was told",
            "soaking": deployment.stage if strategy.stages[deployment.stage].gate else -1,
            "silent": SILENT,
            "unhealthy": UNHEALTHY,
            "watching_since": watch.heard_since,
            "clock_since": watch.clock_since,
            "lost_after": LOST_AFTER,
            "intervals": LOST_AFTER_INTERVALS,
        },
    )
    await _tell(session, deployment, result, now)
    return until or FIRST


async def observe_rollback(
    session: AsyncSession, deployment: Deployment, *, watch: Watch, now: datetime
) -> None:
    """Move agents on their way back by what the tables show: done, failed, superseded, gone."""
    timeouts = strategy_of(deployment).timeouts
    values = {
        "id": deployment.id,
        "now": now,
        "limit": timeouts.begin + timeouts.in_progress,
        "clock_since": watch.clock_since,
        "too_long": "the platform has not seen it back in time",
    }
    await _tell(session, deployment, await session.execute(_OBSERVE_BACK, values), now)


async def count_stages(session: AsyncSession, deployment_id: UUID, *, stages: int) -> list[Tally]:
    """Return the tally of each stage."""
    rows = (await session.execute(_COUNT, {"id": deployment_id})).all()
    dues = {row.stage: row.due for row in await session.execute(_DUES, {"id": deployment_id})}
    found: list[Tally] = []
    for stage in range(stages):
        own = [row for row in rows if row.stage == stage]
        found.append(
            Tally(
                states={AgentState(row.state): row.agents for row in own},
                reachable=sum(row.reachable for row in own),
                due=dues.get(stage) or 0,
            )
        )
    return found


async def count_back(
    session: AsyncSession, deployment_id: UUID
) -> tuple[Mapping[RollbackState, int], int]:
    """Return how many agents are how far on their way back, and how many of those that are not
    back yet are present.
    """
    rows = (await session.execute(_COUNT_BACK, {"id": deployment_id})).all()
    counts = {RollbackState(row.rollback): row.agents for row in rows}
    return counts, sum(row.reachable for row in rows)


async def _tell(session: AsyncSession, deployment: Deployment, moved: Any, now: datetime) -> None:
    if moved.rowcount:
        await tell_of(session, deployment, now)


_UNTIL = sa.text("""
    SELECT agent_id FROM deployment_agents WHERE deployment_id = :id AND agent_id > :after
    ORDER BY agent_id OFFSET :skip LIMIT 1
""")
# The bounds stand at every table: the planner does not pass them on, and would read it whole.
_OBSERVE = sa.text("""
    WITH seen AS (
        SELECT row.agent_id, found.next, found.why
        FROM deployment_agents AS row
        JOIN agents ON agents.id = row.agent_id AND agents.id > :after AND agents.id <= :until
        LEFT JOIN agent_desired AS document
               ON document.agent_id = row.agent_id AND document.deployment_id = row.deployment_id
              AND document.agent_id > :after AND document.agent_id <= :until
        LEFT JOIN agent_state AS state ON state.agent_id = row.agent_id
              AND state.agent_id > :after AND state.agent_id <= :until
        LEFT JOIN agent_status AS status ON status.agent_id = row.agent_id
              AND status.agent_id > :after AND status.agent_id <= :until
        LEFT JOIN fleet_configs AS config ON config.fleet = agents.fleet
        CROSS JOIN LATERAL (SELECT
            greatest(state.received_at, row.notified_at, CAST(:watching_since AS timestamptz))
              < CAST(:now AS timestamptz)
                - greatest(CAST(:lost_after AS interval), CAST(:intervals AS integer)
                           * make_interval(secs => coalesce(config.heartbeat_interval_s, 0)))
              AS silent,
            state.package_digest = CAST(:digest AS bytea) AS runs_it
        ) AS fact
        CROSS JOIN LATERAL (SELECT CASE
            WHEN row.state = 'succeeded' THEN CASE
                WHEN agents.status <> 'active' THEN NULL
                WHEN row.stage = CAST(:soaking AS integer) AND fact.silent
                    THEN ARRAY['failed', :silent]
                WHEN state.status = 'error' AND fact.runs_it THEN ARRAY['failed', :unhealthy] END
            WHEN agents.status <> 'active' THEN ARRAY['excluded', 'revoked']
            WHEN fact.runs_it AND (state.desired_epoch, state.desired_revision)
                 >= (document.epoch, document.revision) THEN ARRAY['succeeded', '']
            WHEN row.state = ANY(CAST(:started AS text[]))
             AND greatest(row.started_at, CAST(:clock_since AS timestamptz))
                 < CAST(:now AS timestamptz) - CAST(:in_progress AS interval)
                THEN ARRAY['timed_out', :not_done]
            WHEN row.state = ANY(CAST(:at_work AS text[])) AND fact.silent
                THEN ARRAY['lost', 'no heartbeat']
            WHEN row.state = 'notified'
             AND greatest(row.notified_at, CAST(:clock_since AS timestamptz))
                 < CAST(:now AS timestamptz) - CAST(:begin AS interval)
                THEN ARRAY['timed_out', :not_begun]
            WHEN row.state = 'pending' AND document.sent_at IS NOT NULL
             AND row.assigned_at IS NOT NULL AND status.presence IN ('online', 'late')
                THEN ARRAY['notified', '']
        END) AS chosen (pair)
        CROSS JOIN LATERAL (SELECT chosen.pair[1], chosen.pair[2]) AS found (next, why)
        WHERE row.deployment_id = :id AND row.state = ANY(CAST(:watched AS text[]))
          AND row.agent_id > :after AND row.agent_id <= :until
          AND row.rollback IS NULL AND found.next <> row.state
        ORDER BY row.agent_id
        FOR NO KEY UPDATE OF row SKIP LOCKED
    )
    UPDATE deployment_agents AS row
    SET state = seen.next,
        reason = seen.why,
        percent = CASE seen.next WHEN 'succeeded' THEN 100 ELSE row.percent END,
        notified_at = coalesce(row.notified_at, CAST(:now AS timestamptz)),
        finished_at = CASE seen.next WHEN 'notified' THEN NULL ELSE CAST(:now AS timestamptz) END,
        updated_at = :now
    FROM seen
    WHERE row.deployment_id = :id AND row.agent_id = seen.agent_id
""")
_OBSERVE_BACK = sa.text("""
    WITH seen AS (
        SELECT row.agent_id, found.next
        FROM deployment_agents AS row
        JOIN agents ON agents.id = row.agent_id
        LEFT JOIN agent_desired AS document ON document.agent_id = row.agent_id
        LEFT JOIN agent_state AS state ON state.agent_id = row.agent_id
        LEFT JOIN agent_status AS status ON status.agent_id = row.agent_id
        CROSS JOIN LATERAL (SELECT CASE
            WHEN agents.status <> 'active' THEN 'gone'
            WHEN document.deployment_id IS DISTINCT FROM row.deployment_id THEN 'superseded'
            WHEN (state.desired_epoch, state.desired_revision)
                 >= (document.epoch, document.revision)
             AND (row.previous_digest IS NULL OR state.package_digest = row.previous_digest)
                THEN 'done'
            WHEN row.rollback = 'assigned' AND status.presence IN ('online', 'late')
             AND greatest(row.assigned_at, CAST(:clock_since AS timestamptz))
                 < CAST(:now AS timestamptz) - CAST(:limit AS interval) THEN 'failed'
        END) AS found (next)
        WHERE row.deployment_id = :id AND row.rollback IN ('assigned', 'failed')
          AND found.next <> row.rollback
        ORDER BY row.agent_id
        FOR NO KEY UPDATE OF row SKIP LOCKED
    )
    UPDATE deployment_agents AS row
    SET rollback = seen.next,
        rollback_reason = CASE seen.next WHEN 'failed' THEN :too_long ELSE '' END,
        updated_at = :now
    FROM seen
    WHERE row.deployment_id = :id AND row.agent_id = seen.agent_id
""")
_COUNT = sa.text("""
    SELECT row.stage, row.state, count(*) AS agents,
           count(*) FILTER (WHERE row.state = 'pending'
                              AND status.presence IN ('online', 'late')) AS reachable
    FROM deployment_agents AS row
    LEFT JOIN agent_status AS status ON status.agent_id = row.agent_id AND row.state = 'pending'
    WHERE row.deployment_id = :id
    GROUP BY row.stage, row.state
""")
_DUES = sa.text("SELECT stage, due FROM deployment_stages WHERE deployment_id = :id")
_COUNT_BACK = sa.text("""
    SELECT row.rollback, count(*) AS agents,
           count(*) FILTER (WHERE row.rollback IN ('waiting', 'assigned')
                              AND status.presence IN ('online', 'late')) AS reachable
    FROM deployment_agents AS row
    LEFT JOIN agent_status AS status ON status.agent_id = row.agent_id
    WHERE row.deployment_id = :id AND row.rollback IS NOT NULL
    GROUP BY row.rollback
""")
