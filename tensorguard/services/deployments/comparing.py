"""Figures of a stage's agents and of the rest of the fleet over the soak, for metric gates."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.metrics import Reading, Side
from tensorguard.rollouts.strategy import MetricGate
from tensorguard.store.deployments import Deployment
from tensorguard.store.tables import agent_status, heartbeats

SAMPLE_AGENTS: Final = 1000
"""So many agents of each side are looked at: the first by lot, the same in every reading."""
_COLUMNS: Final = ("cpu_percent", "memory_percent", "disk_percent", "temperature_c")
_OWN: Final = "metrics."


async def read_metrics(
    session: AsyncSession,
    deployment: Deployment,
    gates: Iterable[MetricGate],
    *,
    since: datetime,
    until: datetime,
) -> list[Reading]:
    """Return what each gate compares: agents that run the release and were told of it, against
    agents of the same fleets that have not been; by heartbeats that came since `since`.
    """
    readings = []
    for gate in gates:
        sides = {}
        values = {
            "id": deployment.id,
            "salt": deployment.salt,
            "fleets": list(deployment.fleets),
            "sample": SAMPLE_AGENTS,
            "since": since,
            "until": until,
        }
        for side, members in (("stage", _STAGE), ("rest", _REST)):
            row = (await session.execute(_mean_of(gate.metric, members), values)).one()
            mean = None if row.mean is None else float(row.mean)
            sides[side] = Side(mean=mean, sent=row.sent, asked=row.asked)
        readings.append(Reading(metric=gate.metric, stage=sides["stage"], rest=sides["rest"]))
    return readings


def _mean_of(metric: str, members: sa.TextClause) -> sa.Select[Any]:
    """Return the query for the mean of the members' means of a figure, and how many sent it."""
    one = members.columns(sa.column("agent_id", sa.Uuid)).cte("one")
    if metric == "trust":
        figure: sa.ScalarSelect[Any] = (
            sa.select(sa.cast(agent_status.c.trust_score, sa.Double))
            .where(agent_status.c.agent_id == one.c.agent_id)
            .scalar_subquery()
        )
    else:
        value = _value_of(metric)
        figure = (
            sa.select(sa.func.avg(value))
            .where(
                heartbeats.c.agent_id == one.c.agent_id,
                heartbeats.c.received_at >= sa.bindparam("since", type_=sa.DateTime(timezone=True)),
                heartbeats.c.received_at < sa.bindparam("until", type_=sa.DateTime(timezone=True)),
            )
            .scalar_subquery()
        )
    means = sa.select(figure.label("mean")).select_from(one).subquery("means")
    return sa.select(
        sa.func.avg(means.c.mean).label("mean"),
        sa.func.count(means.c.mean).label("sent"),
        sa.func.count().label("asked"),
    ).select_from(means)


def _value_of(metric: str) -> sa.ColumnElement[Any]:
    if metric in _COLUMNS:
        return sa.cast(heartbeats.c[metric], sa.Double)
    name = metric.removeprefix(_OWN)
    return sa.cast(heartbeats.c.metrics.op("->>", return_type=sa.Text())(name), sa.Double)


_STAGE = sa.text("""
    SELECT agent_id FROM deployment_agents
    WHERE deployment_id = :id AND state = 'succeeded'
    ORDER BY sha256(CAST(:salt AS bytea) || uuid_send(agent_id)) LIMIT :sample
""")
_REST = sa.text("""
    SELECT agents.id AS agent_id FROM agents
    JOIN agent_status AS status ON status.agent_id = agents.id AND status.presence = 'online'
    LEFT JOIN deployment_agents AS row
           ON row.agent_id = agents.id AND row.deployment_id = :id
    WHERE agents.status = 'active' AND agents.fleet = ANY(CAST(:fleets AS text[]))
      AND row.notified_at IS NULL
    ORDER BY sha256(CAST(:salt AS bytea) || uuid_send(agents.id)) LIMIT :sample
""")
