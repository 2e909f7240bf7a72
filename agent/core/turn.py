"""One input being handled: the time it came at, and what it makes the runtime do."""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from agent.core.backoff import Uniform
from agent.core.clock import Moment, agent_time
from agent.core.effects import DropEvents, Effect, KeepEvent, KeepTrust, NewLog, Persist, Publish
from agent.core.outbox import Outbox
from agent.core.state import AgentState
from tensorguard.pki.identity import AgentIdentity
from tensorguard.protocol import codec, topics
from tensorguard.protocol.messages import EventType, Message
from tensorguard.protocol.topics import UpKind

_TO_DISK_FIRST = (KeepEvent, DropEvents, NewLog, KeepTrust)


class Turn:
    """Collects effects while the parts of the core look at one input."""

    __slots__ = (
        "_dirty",
        "effects",
        "identity",
        "moment",
        "new_id",
        "online",
        "outbox",
        "state",
        "uniform",
    )

    def __init__(
        self,
        moment: Moment,
        *,
        identity: AgentIdentity,
        state: AgentState,
        outbox: Outbox,
        online: bool,
        uniform: Uniform,
        new_id: Callable[[], UUID],
    ) -> None:
        self.moment = moment
        self.identity = identity
        self.state = state
        self.outbox = outbox
        self.online = online
        self.uniform = uniform
        self.new_id = new_id
        self.effects: list[Effect] = []
        self._dirty = False

    @property
    def now(self) -> datetime:
        """Agent time: what every validity check uses."""
        return agent_time(self.moment.system, self.state.time_floor)

    @property
    def mono_s(self) -> float:
        """Monotonic seconds, for intervals."""
        return self.moment.monotonic_s

    def do(self, effect: Effect) -> None:
        """Ask the runtime for something."""
        self.effects.append(effect)

    def publish(self, kind: UpKind, message: Message) -> None:
        """Send a message if there is a connection; whoever needs it repeated repeats it."""
        if self.online:
            topic = topics.up(self.identity.fleet, self.identity.agent_id, kind)
            self.effects.append(Publish(topic, codec.encode(message)))

    def record(self, type_: EventType, details: dict[str, Any]) -> None:
        """Put an event into the outbox; it is sent at the end of the turn."""
        self.effects += self.outbox.add(type_, details, self.moment.system)

    def persist(self) -> None:
        """Have the state written before anything else of this turn is done."""
        self._dirty = True

    def finish(self) -> list[Effect]:
        """Return the effects: first the outbox, then the state, then what others can see.

        An event is written before the state that it tells of: a crash in between makes the step be
        done, and told, once more, but never done untold.
        """
        if not self._dirty:
            return self.effects
        first = [effect for effect in self.effects if isinstance(effect, _TO_DISK_FIRST)]
        rest = [effect for effect in self.effects if not isinstance(effect, _TO_DISK_FIRST)]
        return [*first, Persist(), *rest]
