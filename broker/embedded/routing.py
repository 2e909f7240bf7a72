"""Exact routing: dictionary look-ups where a general broker scans every filter."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from broker.embedded import packets
from broker.embedded.connection import Connection
from broker.embedded.hub import HubLink
from broker.embedded.limits import Limits
from broker.embedded.metrics import FrontMetrics
from broker.front import UpMessage

_log = structlog.get_logger()
# A fleet's message goes to thousands: the loop serves others in between.
_FAN_OUT_SLICE: Final = 200
_NO_HUB_LOG_S: Final = 60.0


class Router:
    """Up messages to hubs, down messages to the agents that subscribed."""

    def __init__(self, limits: Limits, metrics: FrontMetrics) -> None:
        self._limits = limits
        self._metrics = metrics
        # Topic without its kind -> who subscribed to everything below it, oldest first.
        self._down: dict[str, dict[Connection, None]] = {}
        self._hubs: list[HubLink] = []
        # Called when there is another set of hubs: what was on its way to one may be lost.
        self.on_hubs_changed: Callable[[], None] = _ignore
        self._dropped_unlogged = 0
        self._drop_logged_at = float("-inf")
        metrics.hub_queue.set_function(lambda: sum(hub.queued for hub in self._hubs))
        metrics.hub_in_flight.set_function(lambda: sum(hub.in_flight for hub in self._hubs))

    @property
    def has_hub(self) -> bool:
        """Tell whether somebody receives what agents publish."""
        return bool(self._hubs)

    def subscribe(self, connection: Connection, topic_filter: str) -> int:
        """Route to this connection from now on; return the granted QoS.

        The filter is one of the connection's own, which admission has rendered.
        """
        if connection.is_hub:
            if self.find_link(connection) is None:
                self._hubs.append(HubLink(connection, self._limits, self._metrics))
                _log.info("hub_joined", hub=connection.client_id, hubs=len(self._hubs))
                self.on_hubs_changed()
            return 1
        self._down.setdefault(_below(topic_filter), {})[connection] = None
        # Desired state repairs what is lost on the way down, so that QoS 0 is enough.
        return 0

    def unsubscribe(self, connection: Connection, topic_filter: str) -> None:
        """Undo `subscribe`; nothing happens where there was none."""
        if connection.is_hub:
            self._drop_hub(connection)
            return
        subscribers = self._down.get(_below(topic_filter))
        if subscribers is not None:
            subscribers.pop(connection, None)
            if not subscribers:
                del self._down[_below(topic_filter)]

    def drop(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        for topic_filter in connection.rights.subscribe:
            self.unsubscribe(connection, topic_filter)

    def list_topics(self) -> list[str]:
        """Return the topics, without their kind, that somebody has subscribed to."""
        return list(self._down)

    def find_link(self, connection: Connection) -> HubLink | None:
        """Return the link of a hub's connection, or None before it subscribes."""
        return next((hub for hub in self._hubs if hub.connection is connection), None)

    def offer_up(self, speaker: str, message: UpMessage, *, or_drop: bool = True) -> bool:
        """Queue for the speaker's hub without waiting; False where there is no room or no hub."""
        hub = self._hub_of(speaker)
        if hub is not None and hub.offer(message):
            return True
        if or_drop:
            self._count_drop("no-hub" if hub is None else "hub-full")
        return False

    async def put_up(self, speaker: str, message: UpMessage) -> bool:
        """Queue for the speaker's hub, waiting for room within bounds; False where lost."""
        hub = self._hub_of(speaker)
        if hub is not None and await hub.put(message):
            return True
        self._count_drop("no-hub" if hub is None else "hub-full")
        return False

    async def deliver_down(self, topic: str, payload: bytes) -> None:
        """Write to every agent that subscribed; an agent that is away misses it."""
        subscribers = list(self._down.get(topic.rpartition("/")[0], ()))
        if not subscribers:
            self._metrics.dropped.labels("agent-away").inc()
            return
        packet = packets.publish(topic, payload)
        for number, connection in enumerate(subscribers, start=1):
            if connection.send(packet):
                self._metrics.down_out.inc()
            if number % _FAN_OUT_SLICE == 0:
                await asyncio.sleep(0)

    def _hub_of(self, speaker: str) -> HubLink | None:
        # One receiver an agent, so that its messages stay in order.
        return self._hubs[hash(speaker) % len(self._hubs)] if self._hubs else None

    def _drop_hub(self, connection: Connection) -> None:
        link = self.find_link(connection)
        if link is not None:
            self._hubs.remove(link)
            lost = link.close()
            self._metrics.dropped.labels("hub-gone").inc(lost)
            _log.info("hub_left", hub=connection.client_id, lost=lost, hubs=len(self._hubs))
            self.on_hubs_changed()

    def _count_drop(self, reason: str) -> None:
        self._metrics.dropped.labels(reason).inc()
        self._dropped_unlogged += 1
        now = time.monotonic()
        if now - self._drop_logged_at >= _NO_HUB_LOG_S:
            _log.warning("up_messages_dropped", reason=reason, messages=self._dropped_unlogged)
            self._dropped_unlogged, self._drop_logged_at = 0, now


def _ignore() -> None:
    """Nobody wants to know."""


def _below(topic_filter: str) -> str:
    # Its last level is `#` or the only kind that there is.
    return topic_filter.rpartition("/")[0]
