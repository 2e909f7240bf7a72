"""The states of a deployment and of an agent in it, and the moves between them."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from tensorguard.rollouts.errors import IllegalMove


class DeploymentState(StrEnum):
    """Where a deployment as a whole stands."""

    DRAFT = "draft"
    AWAITING_APPROVAL = "awaiting_approval"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ABORTED = "aborted"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


class AgentState(StrEnum):
    """Where one agent stands in one deployment."""

    PENDING = "pending"
    NOTIFIED = "notified"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    ACTIVATING = "activating"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    SUPERSEDED = "superseded"
    ALREADY_INSTALLED = "already_installed"
    EXCLUDED = "excluded"


class RollbackState(StrEnum):
    """Where one agent that a deployment has touched stands on its way back.

    `superseded`: a later deployment has it; `gone`: it is revoked or in another fleet.
    """

    WAITING = "waiting"
    ASSIGNED = "assigned"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    GONE = "gone"


_D, _A = DeploymentState, AgentState
_DEPLOYMENT_MOVES: Final[Mapping[DeploymentState, frozenset[DeploymentState]]] = {
    _D.DRAFT: frozenset({_D.AWAITING_APPROVAL, _D.SCHEDULED, _D.RUNNING, _D.ABORTED}),
    _D.AWAITING_APPROVAL: frozenset({_D.SCHEDULED, _D.RUNNING, _D.ABORTED}),
    _D.SCHEDULED: frozenset({_D.RUNNING, _D.ABORTED}),
    _D.RUNNING: frozenset({_D.PAUSED, _D.COMPLETED, _D.ABORTED, _D.ROLLING_BACK}),
    _D.PAUSED: frozenset({_D.RUNNING, _D.ABORTED, _D.ROLLING_BACK}),
    _D.COMPLETED: frozenset({_D.ROLLING_BACK}),
    _D.ROLLING_BACK: frozenset({_D.ROLLED_BACK}),
    _D.ABORTED: frozenset(),
    _D.ROLLED_BACK: frozenset(),
}
# What an agent does between hearing of the release and running it, in this order.
AT_WORK: Final = (_A.NOTIFIED, _A.DOWNLOADING, _A.VERIFYING, _A.ACTIVATING)
STARTED: Final = AT_WORK[1:]
OPEN: Final = (_A.PENDING, *AT_WORK)
# Presumed, not known: word from the agent itself corrects them.
PRESUMED: Final = (_A.TIMED_OUT, _A.LOST)
GOOD: Final = (_A.SUCCEEDED,)
BAD: Final = (_A.FAILED, *PRESUMED)
# Whoever the release has not reached may be sent it again; a policy's refusal stands.
RETRYABLE: Final = BAD
# Why an agent that had succeeded has failed after all. Who was only silent may come back.
SILENT: Final = "lost"
REVERTED: Final = "reverted"
UNHEALTHY: Final = "unhealthy"
_REPORTED = frozenset({*AT_WORK, _A.SUCCEEDED, _A.FAILED, _A.REJECTED})
_AGENT_MOVES: Final[Mapping[AgentState, frozenset[AgentState]]] = {
    _A.PENDING: _REPORTED | {_A.SUPERSEDED, _A.EXCLUDED},
    **{state: _REPORTED | {_A.TIMED_OUT, _A.LOST, _A.SUPERSEDED, _A.EXCLUDED} for state in AT_WORK},
    **{state: _REPORTED | {_A.SUPERSEDED, _A.EXCLUDED} for state in PRESUMED},
    _A.SUCCEEDED: frozenset({_A.FAILED}),
    _A.FAILED: frozenset(),
    _A.REJECTED: frozenset(),
    _A.SUPERSEDED: frozenset(),
    _A.ALREADY_INSTALLED: frozenset(),
    _A.EXCLUDED: frozenset(),
}


def check_deployment_move(now: DeploymentState, to: DeploymentState) -> None:
    """Accept a legal move of a deployment.

    Raises: IllegalMove, whose hint names what is possible.
    """
    if to in _DEPLOYMENT_MOVES[now]:
        return
    possible = ", ".join(sorted(_DEPLOYMENT_MOVES[now]))
    raise IllegalMove(
        f"a deployment that is {now} cannot become {to}",
        hint=f"From here it can become: {possible}."
        if possible
        else "It is over: start a new one.",
    )


def is_agent_move(now: AgentState, to: AgentState) -> bool:
    """Tell whether an agent's state may change so; staying is no move.

    An agent starts again after a restart or a new link, so that going back among the states at
    work is legal: the newest word of the agent counts.
    """
    return to != now and to in _AGENT_MOVES[now]


def check_agent_move(now: AgentState, to: AgentState) -> None:
    """Accept a legal move of an agent. Raises: IllegalMove."""
    if not is_agent_move(now, to):
        raise IllegalMove(f"an agent that is {now} cannot become {to}")


def next_agent_state(now: AgentState, reported: AgentState, *, runs_it: bool) -> AgentState:
    """Return the state that an agent's word leads to; `now` itself where it changes nothing.

    `runs_it`: a heartbeat has named the release's digest. Only that makes a success: an agent
    that says so before is activating.
    """
    if reported is AgentState.SUCCEEDED and not runs_it:
        reported = AgentState.ACTIVATING
    return reported if is_agent_move(now, reported) else now


def is_retryable(state: AgentState, attempts: int, retries: int) -> bool:
    """Tell whether an agent may be sent the release once more, on somebody's word."""
    return state in RETRYABLE and attempts < retries


def find_ending(counts: Mapping[AgentState, int], *, reachable: int, waited: bool) -> str | None:
    """Return with which remark a last stage without a gate is complete; None while it is not.

    `reachable`: how many of the pending agents are online; `waited`: the rest had their time to
    come. Agents that stay away do not hold it up for ever, and get the release when they return;
    but somebody must have got it.
    """
    if reachable or any(counts.get(state, 0) for state in AT_WORK):
        return None
    away = counts.get(_A.PENDING, 0)
    if not away:
        return ""
    reported = sum(counts.get(state, 0) for state in (*GOOD, *BAD, _A.REJECTED))
    if not waited or not reported:
        return None
    return f"{away} agents were offline; they get the release when they return"
