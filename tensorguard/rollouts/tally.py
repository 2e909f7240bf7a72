"""How many agents of a stage are how far: all that a gate looks at, whoever has counted it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tensorguard.rollouts.states import AT_WORK, BAD, GOOD, AgentState


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Agents by state; `reachable` of the pending ones are present, the others are offline.

    `due` is how many the stage had to bring the release to when the deployment started.
    """

    states: Mapping[AgentState, int] = field(default_factory=dict)
    reachable: int = 0
    due: int = 0

    @property
    def good(self) -> int:
        """Those that run it."""
        return self._sum(GOOD)

    @property
    def bad(self) -> int:
        """Those that failed, took too long, or fell silent on the way."""
        return self._sum(BAD)

    @property
    def reported(self) -> int:
        """Those that count for a gate."""
        return self.good + self.bad

    @property
    def at_work(self) -> int:
        """Those that have been told, and have not come to an end."""
        return self._sum(AT_WORK)

    @property
    def offline(self) -> int:
        """Those that are not there to be told."""
        return self.states.get(AgentState.PENDING, 0) - self.reachable

    @property
    def left(self) -> int:
        """Those with whom anything can still happen without a person."""
        return self.at_work + self.states.get(AgentState.PENDING, 0)

    def _sum(self, states: Iterable[AgentState]) -> int:
        return sum(self.states.get(state, 0) for state in states)


def add_up(tallies: Iterable[Tally]) -> Tally:
    """Return the tally of several stages together."""
    states: dict[AgentState, int] = {}
    reachable = due = 0
    for tally in tallies:
        reachable += tally.reachable
        due += tally.due
        for state, count in tally.states.items():
            states[state] = states.get(state, 0) + count
    return Tally(states=states, reachable=reachable, due=due)
