"""What the front tells the hub: who came, who went, and what was refused, counted."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import structlog

from broker.connection import Connection, End
from broker.hub import UpMessage
from broker.limits import Limits
from broker.metrics import FrontMetrics
from broker.routing import Router
from tensorguard.pki.identity import AgentIdentity, Holder, serial_text
from tensorguard.protocol.codec import encode
from tensorguard.protocol.messages import FrontConnected, FrontDenied, FrontDisconnected, Message
from tensorguard.protocol.topics import FrontKind, FrontTopic

_log = structlog.get_logger()
Operation = Literal["connect", "publish", "subscribe", "will", "retain", "oversize"]
_TEXT_LIMIT: Final = 200


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
        router: Router,
        metrics: FrontMetrics,
        clock: Callable[[], datetime],
        limits: Limits,
    ) -> None:
        self._front_id = front_id
        self._router = router
        self._metrics = metrics
        self._clock = clock
        self._limits = limits
        self._denials: dict[_Key, _Denials] = {}

    def connected(self, connection: Connection) -> None:
        """Tell that an agent's connection was admitted."""
        agent = connection.agent
        if agent is not None:
            report = FrontConnected(
                fleet=agent.fleet,
                agent_id=agent.agent_id,
                serial=serial_text(connection.peer.serial),
                peer=connection.address,
                at=self._clock(),
            )
            self._publish(FrontKind.CONNECTED, report, connection.client_id)

    def disconnected(self, connection: Connection, reason: End) -> None:
        """Tell that an agent's last connection here has ended."""
        agent = connection.agent
        if agent is not None:
            report = FrontDisconnected(
                fleet=agent.fleet, agent_id=agent.agent_id, reason=reason, at=self._clock()
            )
            self._publish(FrontKind.DISCONNECTED, report, connection.client_id)

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
        self._metrics.denied.labels(operation, reason).inc(count)
        agent = identity if isinstance(identity, AgentIdentity) else None
        key: _Key = (operation, reason, agent)
        if key not in self._denials and len(self._denials) >= self._limits.denied_keys:
            key = (operation, "more agents than are counted one by one", None)
        seen = self._denials.setdefault(key, _Denials(0, None))
        seen.count += count
        seen.topic = topic or seen.topic

    async def run(self) -> None:
        """Send the sums at their interval; without a hub they wait."""
        while True:
            await asyncio.sleep(self._limits.report_every.total_seconds())
            try:
                self.flush()
            except Exception:  # nobody waits for this task; the sums stay for the next time
                _log.exception("denials_not_reported")

    def flush(self) -> None:
        """Send the sums now, as far as the hub takes them."""
        if not self._router.has_hub:
            return
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

    def _publish(self, kind: FrontKind, report: Message, speaker: str) -> bool:
        topic = str(FrontTopic(self._front_id, kind))
        return self._router.offer_up(speaker, UpMessage(topic, encode(report), 1))


def _printable(text: str | None) -> str | None:
    if text is None:
        return None
    # A lone surrogate or a control character would make the report itself unreadable.
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return clean[:_TEXT_LIMIT]
