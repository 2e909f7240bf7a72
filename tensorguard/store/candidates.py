"""The agents that a deployment concerns, their order, and why some of them are left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

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
_KINDS: Final = (
    (AgentState.PENDING.value, ""),
    (AgentState.ALREADY_INSTALLED.value, ""),
    (AgentState.EXCLUDED.value, "quarantined"),
    (AgentState.EXCLUDED.value, "target-fleet"),
    (AgentState.EXCLUDED.value, "target-selector"),
)
_EXCLUDED_FROM: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """Whom a release is for: fleets and selector of the deployment, target of the manifest.

    `within`: only agents whose ids lie beyond the first and not beyond the second.
    """

    salt: bytes
    fleets: tuple[str, ...]
    selector: Selector
    target_fleets: tuple[str, ...]
    target_selector: Selector
    package_digest: bytes
    stratify: str | None = None
    within: tuple[UUID, UUID] | None = None


def candidates(audience: Audience) -> sa.CTE:
    """Return (agent_id, h, kind, state, reason, stratum, running) of all active agents asked for.

    `state` is what the agent starts in: pending, already_installed or excluded, and `kind` a number
    for it and its reason; `stratum` the value of the tag that the first stage is stratified by, and
    `running` the digest of what the agent says that it runs.
    """
    state, status, desired = agent_state.c, agent_status.c, agent_desired.c
    digest = audience.package_digest
    stratum: sa.ColumnElement[Any] = sa.null()
    if audience.stratify is not None:
        stratum = agents.c.tags.op("->>", return_type=sa.Text())(audience.stratify)
    # Running it is not enough: another deployment may be about to take it away again.
    kept = sa.select(desired.package_digest == digest).where(desired.agent_id == agents.c.id)
    installed = sa.case((state.package_digest == digest, kept.scalar_subquery()), else_=sa.false())
    kind = sa.case(
        (sa.func.coalesce(status.trust_score, 100) < QUARANTINE_BELOW, 2),
        (_outside_target_fleets(audience), 3),
        (sa.not_(selector_clause(audience.target_selector)), 4),
        (installed, 1),
        else_=0,
    )
    found = (
        sa.select(
            agents.c.id.label("agent_id"),
            sa.func.sha256(
                sa.literal(audience.salt, sa.LargeBinary).op("||")(sa.func.uuid_send(agents.c.id))
            ).label("h"),
            kind.label("kind"),
            stratum.label("stratum"),
            state.package_digest.label("running"),
        )
        .outerjoin(
            agent_state, (state.agent_id == agents.c.id) & _is_between(audience, state.agent_id)
        )
        .outerjoin(
            agent_status, (status.agent_id == agents.c.id) & _is_between(audience, status.agent_id)
        )
        .where(
            agents.c.status == "active",
            agents.c.fleet.in_(audience.fleets),
            selector_clause(audience.selector),
            _is_between(audience, agents.c.id),
        )
        .cte("found")
    )
    return sa.select(
        found.c.agent_id,
        found.c.h,
        found.c.kind,
        _name(found.c.kind, [state for state, _ in _KINDS]).label("state"),
        _name(found.c.kind, [reason for _, reason in _KINDS]).label("reason"),
        found.c.stratum,
        found.c.running,
    ).cte("candidates")


def _name(kind: sa.ColumnElement[int], names: Sequence[str]) -> sa.ColumnElement[str]:
    return sa.case({number: sa.literal(name) for number, name in enumerate(names)}, value=kind)


def places(found: sa.CTE, percents: Sequence[int]) -> sa.CTE:
    """Return the candidates with (chosen, place, stage, ends), those who are excluded at the end.

    `place` counts from 1 in the order in which stages of these percentages take them: by h, but
    before all others the `chosen`, of each stratum the first. `stage` is null for who is excluded,
    and `ends` true for the last one of a stage. Without a join, which would be a bad one as long as
    the planner knows nothing of a new fleet.
    """
    excluded = found.c.kind >= _EXCLUDED_FROM
    of_stratum = sa.func.row_number().over(
        partition_by=(excluded, found.c.stratum), order_by=found.c.h
    )
    chosen = sa.not_(excluded) & found.c.stratum.is_not(None) & (of_stratum == 1)
    ordered = sa.select(found, chosen.label("chosen")).subquery("ordered")
    last = ordered.c.kind >= _EXCLUDED_FROM
    place = sa.func.row_number().over(order_by=(last, sa.not_(ordered.c.chosen), ordered.c.h))
    eligible = sa.func.count().filter(sa.not_(last)).over()
    one = sa.select(ordered, place.label("place"), eligible.label("eligible")).subquery("one")
    # As rollouts.stages.stage_size has it.
    ends = [(one.c.eligible * percent + 99) // 100 for percent in percents]
    bounds = [(one.c.place <= end, sa.literal(stage)) for stage, end in enumerate(ends)]
    stage = sa.case(*bounds, else_=sa.null())
    return sa.select(one, stage.label("stage"), one.c.place.in_(ends).label("ends")).cte("places")


def summarize(placed: sa.CTE, sample: int) -> sa.Select[Any]:
    """Return (stage, state, reason, agents, chosen, highest, ids, places), one row a kind of agents
    in a stage.

    `highest` is the h of the agent with which the stage ends, if that one is here and was not
    chosen; `ids` are the first `sample` in no order, and `places` which places those have.
    """
    kind = (placed.c.stage, placed.c.kind)
    nth = sa.func.row_number().over(partition_by=kind, order_by=placed.c.place)
    one = sa.select(placed, nth.label("nth")).subquery("kind")
    first, ends = one.c.nth <= sample, one.c.ends & sa.not_(one.c.chosen)

    def collect(column: str, where: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
        type_ = ARRAY(one.c[column].type)
        return sa.func.array_agg(one.c[column], type_=type_).filter(where)

    return sa.select(
        one.c.stage,
        sa.func.min(one.c.state).label("state"),
        sa.func.min(one.c.reason).label("reason"),
        sa.func.count().label("agents"),
        sa.func.count().filter(one.c.chosen).label("chosen"),
        collect("h", ends).label("highest"),
        collect("agent_id", first).label("ids"),
        collect("place", first).label("places"),
    ).group_by(one.c.stage, one.c.kind)


def _outside_target_fleets(audience: Audience) -> sa.ColumnElement[bool]:
    if not audience.target_fleets:
        return sa.false()
    return agents.c.fleet.not_in(audience.target_fleets)


def _is_between(audience: Audience, agent_id: sa.ColumnElement[UUID]) -> sa.ColumnElement[bool]:
    """Tell whether an id is within the bounds.

    It has to be said of each table: the planner does not pass it on, and would read them whole.
    """
    if audience.within is None:
        return sa.true()
    after, until = audience.within
    return (agent_id > after) & (agent_id <= until)


def previous_digest(found: sa.CTE) -> sa.ColumnElement[bytes | None]:
    """Return what a candidate runs, if the platform once gave it that; what it goes back to.

    An agent's word alone must not make a package its own: a key could be asked for with it.
    """
    row = deployment_agents.c
    given = sa.exists(
        sa.select(sa.literal(1))
        .select_from(
            deployment_agents.join(deployments, deployments.c.id == row.deployment_id).join(
                releases, releases.c.id == deployments.c.release_id
            )
        )
        .where(
            row.agent_id == found.c.agent_id,
            row.notified_at.is_not(None),
            releases.c.package_digest == found.c.running,
        )
    )
    return sa.case((given, found.c.running))
