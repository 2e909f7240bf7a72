"""What is presumed of agents that do not say it themselves: lost, timed out, silent in the soak.

The controller does the same for all agents at once in SQL; a test holds the two together.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tensorguard.rollouts.states import AT_WORK, SILENT, STARTED, AgentState
from tensorguard.rollouts.strategy import Timeouts

LOST_AFTER: Final = timedelta(minutes=2)
LOST_AFTER_INTERVALS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Since when what the platform sees proves anything.

    `heard_since`: heartbeats are being read; silence before it says nothing. `clock_since`: the
    clock has not jumped; what took too long before it may have taken a moment.
    """

    heard_since: datetime
    clock_since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the platform knows of one agent; `soaks`: its stage is under way, and has a gate."""

    state: AgentState
    notified_at: datetime | None
    started_at: datetime | None
    heard_at: datetime | None
    interval: timedelta
    soaks: bool = False


def lost_after(interval: timedelta) -> timedelta:
    """How long nothing must have been heard of an agent with this heartbeat interval."""
    return max(LOST_AFTER, LOST_AFTER_INTERVALS * interval)


def presume(
    seen: Seen, *, timeouts: Timeouts, watch: Watch, now: datetime
) -> tuple[AgentState, str] | None:
    """Return the state that an agent is presumed to be in, and why; None: nothing new."""
    heard = [at for at in (seen.heard_at, seen.notified_at, watch.heard_since) if at is not None]
    is_silent = max(heard) < now - lost_after(seen.interval)
    if seen.state is AgentState.SUCCEEDED and seen.soaks and is_silent:
        return AgentState.FAILED, SILENT
    if seen.state not in AT_WORK:
        return None
    if _is_over(seen.started_at, timeouts.in_progress, watch, now) and seen.state in STARTED:
        return AgentState.TIMED_OUT, f"not done {timeouts.in_progress_s:g} s after it began"
    if is_silent:
        return AgentState.LOST, "no heartbeat"
    if _is_over(seen.notified_at, timeouts.begin, watch, now) and seen.state not in STARTED:
        return AgentState.TIMED_OUT, f"did not begin {timeouts.begin_s:g} s after it was told"
    return None


def _is_over(since: datetime | None, limit: timedelta, watch: Watch, now: datetime) -> bool:
    return since is not None and max(since, watch.clock_since) < now - limit
