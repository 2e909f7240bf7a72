"""Where a deployment stands for whoever looks: gates in numbers, what it waits for, what may be
done.
"""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.decisions import Standing, decide
from tensorguard.rollouts.errors import IllegalMove
from tensorguard.rollouts.gates import GateReport, judge
from tensorguard.rollouts.presumption import Watch
from tensorguard.rollouts.ramp import rate_per_minute
from tensorguard.rollouts.states import DeploymentState, check_deployment_move
from tensorguard.rollouts.tally import add_up
from tensorguard.rollouts.windows import AGENT_TIMEZONE, is_open, next_opening
from tensorguard.services.deployments.comparing import read_metrics
from tensorguard.services.deployments.membership import strategy_of
from tensorguard.services.deployments.rollout import read_standing
from tensorguard.store.deployments import Deployment
from tensorguard.store.tables import agents, deployment_agents

_D = DeploymentState
_MOVES = {
    "start": _D.RUNNING,
    "pause": _D.PAUSED,
    "resume": _D.RUNNING,
    "abort": _D.ABORTED,
    "rollback": _D.ROLLING_BACK,
}
_BEGUN = (_D.RUNNING, _D.PAUSED)


@dataclass(frozen=True, slots=True)
class Action:
    """Something that people do to a deployment; `why_not` says why not now, if so."""

    name: str
    why_not: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What the present stage's gate says, what is waited for, and what may be done.

    `window_opens_at`: none while it is open somewhere; `rate_per_minute`: what the ramp allows.
    """

    gate: GateReport | None
    waits_for: str
    window_opens_at: datetime | None
    rate_per_minute: int | None
    actions: list[Action]


async def look(session: AsyncSession, deployment: Deployment, *, now: datetime) -> Outlook:
    """Return the outlook of a deployment."""
    actions = list_actions(deployment)
    if deployment.state not in _BEGUN:
        return Outlook(
            gate=None,
            waits_for=_find_delay(deployment),
            window_opens_at=None,
            rate_per_minute=None,
            actions=actions,
        )
    watch = Watch(heard_since=now, clock_since=datetime.min.replace(tzinfo=now.tzinfo))
    standing = await read_standing(session, deployment, watch=watch, now=now)
    strategy = standing.strategy
    opens_at = await _find_opening(session, deployment, now)
    waits_for = ""
    if deployment.state is _D.RUNNING:
        waits_for = decide(standing, now).reason
        if opens_at is not None:
            waits_for = f"the window opens at {opens_at.isoformat()}; {waits_for}"
    rate = None
    if strategy.ramp is not None:
        rate = rate_per_minute(strategy.ramp, add_up(standing.tallies).good)
    return Outlook(
        gate=await _judge(session, deployment, standing, now),
        waits_for=waits_for,
        window_opens_at=opens_at,
        rate_per_minute=rate,
        actions=actions,
    )


def _find_delay(deployment: Deployment) -> str:
    """Return what the start is waiting for."""
    if deployment.state not in (_D.AWAITING_APPROVAL, _D.SCHEDULED):
        return ""
    if deployment.state_reason or deployment.start_at is None:
        return deployment.state_reason
    return f"it starts at {deployment.start_at.isoformat()}"


def list_actions(deployment: Deployment) -> list[Action]:
    """Return every action, with why it is not possible now where it is not."""
    actions = [Action(name, _find_objection(deployment, name, to)) for name, to in _MOVES.items()]
    begun = deployment.state in _BEGUN
    over = f"a deployment that is {deployment.state} is not under way"
    last = deployment.stage + 1 >= len(strategy_of(deployment).stages)
    advance = "this is the last stage" if last else None
    actions.append(Action("advance", advance if begun else over))
    actions.append(Action("retry-failed", None if begun else over))
    return actions


def _find_objection(deployment: Deployment, name: str, to: DeploymentState) -> str | None:
    state = deployment.state
    if name == "start" and state is _D.PAUSED:
        return "it has started: resume it"
    if name == "resume" and state is not _D.PAUSED:
        return f"a deployment that is {state} is not paused"
    try:
        check_deployment_move(state, to)
    except IllegalMove as error:
        return error.message
    return None


async def _judge(
    session: AsyncSession, deployment: Deployment, standing: Standing, now: datetime
) -> GateReport | None:
    gate = standing.strategy.stages[standing.stage].gate
    if gate is None:
        return None
    readings = None
    if gate.metrics and standing.held_since is not None:
        since = standing.held_since
        readings = await read_metrics(session, deployment, gate.metrics, since=since, until=now)
    tallies = standing.tallies[: standing.stage + 1]
    return judge(gate, tallies, held_since=standing.held_since, now=now, readings=readings)


async def _find_opening(
    session: AsyncSession, deployment: Deployment, now: datetime
) -> datetime | None:
    window = strategy_of(deployment).window
    if window is None:
        return None
    zones: list[str | None] = [None]
    if window.timezone == AGENT_TIMEZONE:
        row = deployment_agents.c
        query = (
            sa.select(agents.c.facts["timezone"].astext)
            .distinct()
            .join(deployment_agents, row.agent_id == agents.c.id)
            .where(row.deployment_id == deployment.id, row.state == "pending")
        )
        zones = list((await session.execute(query)).scalars()) or zones
    if any(is_open(window, now, zone=zone) for zone in zones):
        return None
    return min(next_opening(window, now, zone=zone) for zone in zones)
