"""The agents that a deployment concerns, their order, and why some of them are left out."""

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


def candidates(audience: Audience) -> sa.CTE:
    """Return (agent_id, h, state, reason, previous_digest) of every active agent asked for.

    `state` is what the agent starts in: pending, already_installed or excluded.
    """
    state, status, desired = agent_state.c, agent_status.c, agent_desired.c
    digest = audience.package_digest
    reason = sa.case(
        (sa.func.coalesce(status.trust_score, 100) < QUARANTINE_BELOW, "quarantined"),
        (_outside_target_fleets(audience), "target-fleet"),
        (sa.not_(selector_clause(audience.target_selector)), "target-selector"),
        else_="",
    )
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
    ).cte("candidates")


def count_candidates(audience: Audience, sample: int) -> sa.Select[Any]:
    """Return (state, reason, count, the first `sample` agent ids by h), one row a kind."""
    found = candidates(audience)
    ids = sa.func.array_agg(aggregate_order_by(found.c.agent_id, found.c.h), type_=ARRAY(sa.Uuid))[
        1:sample
    ]
    return (
        sa.select(found.c.state, found.c.reason, sa.func.count().label("agents"), ids)
        .group_by(found.c.state, found.c.reason)
        .order_by(found.c.state, found.c.reason)
    )


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
