"""What the broker's process hands to an engine, and what it gets back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from broker.denyset import DenySet
from broker.embedded.routing import Router
from broker.front import BrokerFront
from broker.settings import BrokerSettings
from broker.trust import Trust


def utc_now() -> datetime:
    """The system clock, aware UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What every front of this process stands on."""

    settings: BrokerSettings
    trust: Trust
    denied: DenySet = field(default_factory=DenySet)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    clock: Callable[[], datetime] = utc_now


class Engine(NamedTuple):
    """A front, and the router to its hubs that devices' requests take as well."""

    front: BrokerFront
    router: Router
