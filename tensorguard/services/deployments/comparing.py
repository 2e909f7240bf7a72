"""Figures of a stage's agents and of the rest of the fleet over the soak, for metric gates."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.metrics import Reading, Side
from tensorguard.rollouts.strategy import TRUST, MetricGate
from tensorguard.store.deployments import Deployment
from tensorguard.store.tables import Time, agent_status, heartbeats

SAMPLE_AGENTS: Final = 1000
"""So many agents of each side are looked at: the first by lot, the same in every reading."""
TRIMMED: Final = 20
"""One in so many agents is left out at either end: a sensor that is broken decides nothing."""
# Beyond it nothing is measured, and sums of it would overflow.
_ABSURD: Final = 1e15
_COLUMNS: Final = ("cpu_percent", "memory_percent", "disk_percent", "temperature_c")
_OWN: Final = "metrics."


async def read_metrics(
    session: AsyncSession,
    deployment: Deployment,
    gates: Sequence[MetricGate],
    *,
    since: datetime,
    until: datetime,
) -> list[Reading]:
    """Return what each gate compares: agents that run the release and were told of it, against
    agents of the same fleets that have not been; by heartbeats that came since `since`.

    Trust is what it is now: it changes by what agents have done, and not with each heartbeat.
    """
    metrics = [gate.metric for gate in gates]
    values = {
        "id": deployment.id,
        "salt": deployment.salt,
        "fleets": list(deployment.fleets),
        "sample": SAMPLE_AGENTS,
        "since": since,
        "until": until,
    }
    sides = []
    for members in (_STAGE, _REST):
        rows = await session.execute(_means_of(metrics, members), values)
        sides.append({row.figure: row for row in rows})
    return [
        Reading(metric=metric, stage=_side(sides[0].get(figure)), rest=_side(sides[1].get(figure)))
        for figure, metric in enumerate(metrics, start=1)
    ]


def _side(row: Any) -> Side:
    """Return a figure of one side; nobody is on it where there is no row."""
    if row is None:
        return Side(mean=None, sent=0, asked=0)
    return Side(mean=None if row.mean is None else float(row.mean), sent=row.sent, asked=row.asked)


def _means_of(metrics: Sequence[str], members: sa.TextClause) -> sa.Select[Any]:
    """Return the query for (figure, mean, sent, asked) of each metric, counted from 1: the mean
    of the members' means, and how many of them sent it. All of them are read in one go.
    """
    one = members.columns(sa.column("agent_id", sa.Uuid)).cte("one")
    means = [_mean_of(metric).label(f"mean_{place}") for place, metric in enumerate(metrics)]
    heard = heartbeats.c.received_at
    own = (
        sa.select(*means)
        .where(
            heartbeats.c.agent_id == one.c.agent_id,
            heard >= sa.bindparam("since", type_=Time),
            heard < sa.bindparam("until", type_=Time),
        )
        .lateral("own")
    )
    trust = (
        sa.select(sa.cast(agent_status.c.trust_score, sa.Double))
        .where(agent_status.c.agent_id == one.c.agent_id)
        .scalar_subquery()
    )
    found = [
        trust if metric == TRUST else own.c[f"mean_{place}"] for place, metric in enumerate(metrics)
    ]
    figure = (
        sa.func.unnest(array(found, type_=sa.Double))
        .table_valued(sa.column("mean", sa.Double), with_ordinality="figure", name="figure")
        .render_derived()
    )
    mean, sent = figure.c.mean, sa.func.count(figure.c.mean).over(partition_by=figure.c.figure)
    place = sa.func.row_number().over(partition_by=figure.c.figure, order_by=mean)
    ranked = (
        sa.select(figure.c.figure, mean, sent.label("sent"), place.label("place"))
        .select_from(one.join(own, sa.true()).join(figure, sa.true()))
        .subquery("ranked")
    )
    left_out = ranked.c.sent // TRIMMED
    counts = (ranked.c.place > left_out) & (ranked.c.place <= ranked.c.sent - left_out)
    return sa.select(
        ranked.c.figure,
        sa.func.avg(ranked.c.mean).filter(counts).label("mean"),
        sa.func.max(ranked.c.sent).label("sent"),
        sa.func.count().label("asked"),
    ).group_by(ranked.c.figure)


def _mean_of(metric: str) -> sa.ColumnElement[Any]:
    """Return the mean of an agent's heartbeats; for trust, which is not in them, nothing."""
    if metric == TRUST:
        return sa.func.avg(sa.cast(sa.null(), sa.Double))
    if metric in _COLUMNS:
        return sa.func.avg(sa.cast(heartbeats.c[metric], sa.Double))
    name = metric.removeprefix(_OWN)
    value = sa.cast(heartbeats.c.metrics.op("->>", return_type=sa.Text())(name), sa.Double)
    return sa.func.avg(value).filter(sa.func.abs(value) <= _ABSURD)


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
