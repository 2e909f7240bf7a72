"""What the front tells the hub: who came, who went, and what was refused, counted.

A hub that is away, or full, is told later: the newest of each agent. One that joins is told of
every session that is held, and since when, so that nothing it has missed stays wrong.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, Literal

import structlog
from prometheus_client import Counter

from broker.front import UpMessage, Upward
from broker.session import End, Session
from tensorguard.pki.identity import AgentIdentity, Holder
from tensorguard.protocol.codec import encode
from tensorguard.protocol.messages import FrontConnected, FrontDenied, FrontDisconnected, Message
from tensorguard.protocol.topics import FrontKind, FrontTopic

_log = structlog.get_logger()
Operation = Literal["connect", "publish", "subscribe", "will", "retain", "oversize"]
_TEXT_LIMIT: Final = 200
# Of sessions told later, in one interval: room stays for what agents say meanwhile.
_RETOLD_AT_ONCE: Final = 2000


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much waits to be told: sums of denials for `every`, and the news of `sessions` agents."""

    every: timedelta = timedelta(seconds=1)
    denied_keys: int = 1000
    sessions: int = 10_000


@dataclass(slots=True)
class _Denials:
    count: int
    topic: str | None


_Key = tuple[Operation, str, AgentIdentity | None]


class Reports:
    """Publishes on the front's own topics; denials are summed for a second at least."""

    def __init__(
        self,
        front_id: str,
        upward: Upward,
        denials: Counter,
        clock: Callable[[], datetime],
        bounds: Bounds,
    ) -> None:
        self._front_id = front_id
        self._upward = upward
        self._counter = denials
        self._clock = clock
        self._bounds = bounds
        self._denials: dict[_Key, _Denials] = {}
        self._untold: dict[str, FrontConnected | FrontDisconnected] = {}

    def connected(self, session: Session) -> None:
        """Tell that an agent's connection was admitted."""
        self._tell(session.agent.common_name, _held(session))

    def disconnected(self, agent: AgentIdentity, reason: End) -> None:
        """Tell that an agent's last connection here has ended."""
        report = FrontDisconnected(
            fleet=agent.fleet, agent_id=agent.agent_id, reason=reason, at=self._clock()
        )
        self._tell(agent.common_name, report)

    def retell(self, held: Sequence[Session]) -> None:
        """Tell of all these sessions again, in the next intervals."""
        for session in held:
            self._untold.setdefault(session.agent.common_name, _held(session))

    def denied(
        self,
        operation: Operation,
        reason: str,
        identity: Holder | None = None,
        *,
        topic: str | None = None,
        count: int = 1,
    ) -> None:
        """Count a refused operation; `reason` is one of a closed list, so that the map is small."""
        self._counter.labels(operation, reason).inc(count)
        agent = identity if isinstance(identity, AgentIdentity) else None
        key: _Key = (operation, reason, agent)
        if key not in self._denials and len(self._denials) >= self._bounds.denied_keys:
            key = (operation, "more agents than are counted one by one", None)
        seen = self._denials.setdefault(key, _Denials(0, None))
        seen.count += count
        seen.topic = topic or seen.topic

    async def run(self) -> None:
        """Send the sums, and what was not told yet, at their interval; without a hub they wait."""
        while True:
            await asyncio.sleep(self._bounds.every.total_seconds())
            try:
                self.flush()
            except Exception:  # nobody waits for this task; the sums stay for the next time
                _log.exception("denials_not_reported")

    def flush(self) -> None:
        """Send what waits now, as far as the hub takes it."""
        if not self._upward.has_hub:
            return
        for client_id, news in list(islice(self._untold.items(), _RETOLD_AT_ONCE)):
            if not self._offer(client_id, news):
                return
            del self._untold[client_id]
        now = self._clock()
        for (operation, reason, agent), seen in list(self._denials.items()):
            report = FrontDenied(
                operation=operation,
                reason=reason,
                count=seen.count,
                at=now,
                fleet=agent.fleet if agent else None,
                agent_id=agent.agent_id if agent else None,
                topic=_printable(seen.topic),
            )
            if not self._publish(FrontKind.DENIED, report, agent.common_name if agent else ""):
                return
            del self._denials[operation, reason, agent]

    def _tell(self, client_id: str, report: FrontConnected | FrontDisconnected) -> None:
        """Tell at once, or keep the newest of each agent, of as many as the front may hold."""
        self._untold.pop(client_id, None)
        if not self._offer(client_id, report) and len(self._untold) < self._bounds.sessions:
            self._untold[client_id] = report

    def _offer(self, client_id: str, report: FrontConnected | FrontDisconnected) -> bool:
        is_connected = isinstance(report, FrontConnected)
        kind = FrontKind.CONNECTED if is_connected else FrontKind.DISCONNECTED
        return self._publish(kind, report, client_id)

    def _publish(self, kind: FrontKind, report: Message, speaker: str) -> bool:
        topic = str(FrontTopic(self._front_id, kind))
        return self._upward.offer_up(speaker, UpMessage(topic, encode(report), 1))


def _held(session: Session) -> FrontConnected:
    return FrontConnected(
        fleet=session.agent.fleet,
        agent_id=session.agent.agent_id,
        serial=session.serial,
        peer=session.address,
        at=session.admitted_at,
    )


def _printable(text: str | None) -> str | None:
    if text is None:
        return None
    # A lone surrogate or a control character would make the report itself unreadable.
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return clean[:_TEXT_LIMIT]
