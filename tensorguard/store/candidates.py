"""The agents that a deployment concerns, their order, and why some of them are left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by

from tensorguard.rollouts.selector import Selector
from tensorguard.rollouts.states import AgentState
from tensorguard.store.selectors import selector_clause
from tensorguard.store.tables import (
    agent_desired,
    agent_state,
    agent_status,
    agents,
    deployment_agents,
    deployments,
    releases,
)

# Below it an agent is quarantined: it gets no grants, so that a release would only fail there.
QUARANTINE_BELOW = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """Whom a release is for: fleets and selector of the deployment, target of the manifest."""

    salt: bytes
    fleets: tuple[str, ...]
    selector: Selector
    target_fleets: tuple[str, ...]
    target_selector: Selector
    package_digest: bytes
    stratify: str | None = None


def candidates(audience: Audience) -> sa.CTE:
    """Return (agent_id, h, state, reason, previous_digest, stratum) of all active agents asked for.

    `state` is what the agent starts in: pending, already_installed or excluded; `stratum` the value
    of the tag that the first stage is stratified by.
    """
    state, status, desired = agent_state.c, agent_status.c, agent_desired.c
    digest = audience.package_digest
    reason = sa.case(
        (sa.func.coalesce(status.trust_score, 100) < QUARANTINE_BELOW, "quarantined"),
        (_outside_target_fleets(audience), "target-fleet"),
        (sa.not_(selector_clause(audience.target_selector)), "target-selector"),
        else_="",
    )
    stratum: sa.ColumnElement[Any] = sa.null()
    if audience.stratify is not None:
        stratum = agents.c.tags.op("->>", return_type=sa.Text())(audience.stratify)
    # Running it is not enough: another deployment may be about to take it away again.
    installed = (state.package_digest == digest) & (desired.package_digest == digest)
    found = (
        sa.select(
            agents.c.id.label("agent_id"),
            sa.func.sha256(
                sa.literal(audience.salt, sa.LargeBinary).op("||")(sa.func.uuid_send(agents.c.id))
            ).label("h"),
            reason.label("reason"),
            sa.func.coalesce(installed, sa.false()).label("installed"),
            sa.case(
                (state.package_digest.is_not(None) & _was_assigned(), state.package_digest)
            ).label("previous_digest"),
            stratum.label("stratum"),
        )
        .outerjoin(agent_state, state.agent_id == agents.c.id)
        .outerjoin(agent_status, status.agent_id == agents.c.id)
        .outerjoin(agent_desired, desired.agent_id == agents.c.id)
        .where(
            agents.c.status == "active",
            agents.c.fleet.in_(audience.fleets),
            selector_clause(audience.selector),
        )
        .cte("found")
    )
    return sa.select(
        found.c.agent_id,
        found.c.h,
        sa.case(
            (found.c.reason != "", AgentState.EXCLUDED.value),
            (found.c.installed, AgentState.ALREADY_INSTALLED.value),
            else_=AgentState.PENDING.value,
        ).label("state"),
        found.c.reason,
        found.c.previous_digest,
        found.c.stratum,
    ).cte("candidates")


def count_candidates(audience: Audience, sample: int) -> sa.Select[Any]:
    """Return (state, reason, count, the first `sample` agent ids by h), one row a kind."""
    found = candidates(audience)
    return (
        sa.select(
            found.c.state, found.c.reason, sa.func.count().label("agents"), _ids(found, sample)
        )
        .group_by(found.c.state, found.c.reason)
        .order_by(found.c.state, found.c.reason)
    )


def places(found: sa.CTE) -> sa.CTE:
    """Return the candidates with (chosen, place), those who are excluded at the end.

    `place` counts from 1 in the order in which the stages take them: by h, but before all others
    the `chosen`, of each stratum the first. Without a join, which would be a bad one as long as
    the planner knows nothing of a new fleet.
    """
    excluded = found.c.state == AgentState.EXCLUDED
    of_stratum = sa.func.row_number().over(
        partition_by=(excluded, found.c.stratum), order_by=found.c.h
    )
    chosen = sa.not_(excluded) & found.c.stratum.is_not(None) & (of_stratum == 1)
    ordered = sa.select(found, chosen.label("chosen")).subquery("ordered")
    last = ordered.c.state == AgentState.EXCLUDED
    place = sa.func.row_number().over(order_by=(last, sa.not_(ordered.c.chosen), ordered.c.h))
    return sa.select(ordered, place.label("place")).cte("places")


def stage_at(placed: sa.CTE, ends: Sequence[int]) -> sa.ColumnElement[int]:
    """Return the stage of a place, where stages end at the places `ends`."""
    bounds = [(placed.c.place <= end, sa.literal(index)) for index, end in enumerate(ends)]
    return sa.case(*bounds, else_=sa.literal(len(ends) - 1))


def count_placed(audience: Audience) -> sa.Select[int, int]:
    """Return how many agents there are to place, and how many strata they are of."""
    placed = places(candidates(audience))
    counts = sa.select(sa.func.count(), sa.func.count().filter(placed.c.chosen))
    return counts.select_from(placed).where(placed.c.state != AgentState.EXCLUDED)


def describe_stages(audience: Audience, ends: Sequence[int], sample: int) -> sa.Select[Any]:
    """Return (stage, agents, due, highest h of those that were not chosen, first ids by place).

    A stage that adds nobody has no row.
    """
    placed = places(candidates(audience))
    stage = stage_at(placed, ends).label("stage")
    one = sa.select(placed, stage).where(placed.c.state != AgentState.EXCLUDED).subquery("one")
    plain = sa.func.array_agg(
        aggregate_order_by(one.c.h, one.c.h.desc()), type_=ARRAY(sa.LargeBinary)
    ).filter(sa.not_(one.c.chosen))[1]
    ids = sa.func.array_agg(aggregate_order_by(one.c.agent_id, one.c.place), type_=ARRAY(sa.Uuid))[
        1:sample
    ]
    return (
        sa.select(
            one.c.stage,
            sa.func.count().label("agents"),
            sa.func.count().filter(one.c.state == AgentState.PENDING).label("due"),
            plain.label("highest"),
            ids.label("sample"),
        )
        .group_by(one.c.stage)
        .order_by(one.c.stage)
    )


def _ids(found: sa.CTE, sample: int) -> sa.ColumnElement[Any]:
    ids = sa.func.array_agg(aggregate_order_by(found.c.agent_id, found.c.h), type_=ARRAY(sa.Uuid))
    return ids[1:sample]


def _outside_target_fleets(audience: Audience) -> sa.ColumnElement[bool]:
    if not audience.target_fleets:
        return sa.false()
    return agents.c.fleet.not_in(audience.target_fleets)


def _was_assigned() -> sa.ColumnElement[bool]:
    """Tell whether the platform once gave the agent what it says it runs.

    An agent's word alone must not make a package its own: a key could be asked for with it.
    """
    row = deployment_agents.c
    return sa.exists(
        sa.select(sa.literal(1))
        .select_from(
            deployment_agents.join(deployments, deployments.c.id == row.deployment_id).join(
                releases, releases.c.id == deployments.c.release_id
            )
        )
        .where(
            row.agent_id == agents.c.id,
            row.notified_at.is_not(None),
            releases.c.package_digest == agent_state.c.package_digest,
        )
    )
