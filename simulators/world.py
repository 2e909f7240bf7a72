"""What all agents of a simulation share."""

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Protocol
from uuid import UUID

from agent.core.clock import Moment
from agent.core.settings import CoreSettings
from simulators.behaviour import Behaviour
from simulators.identities import Home, IdentityStore
from simulators.link import Endpoint
from simulators.packages import PackageWork
from simulators.statistics import Statistics
from tensorguard.pki.bundle import TrustStore, accept_next


class Connecting(Protocol):
    """An agent that waits for its turn to connect."""

    async def connect(self) -> None: ...


class AckedLog:
    """A file with one line `agent_id log_id number` for each acked event, written at once.

    Who kills the hub compares it with the ledger: every line must be there, exactly once.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, agent_id: UUID, log_id: UUID, numbers: Sequence[int]) -> None:
        """Append the events of one ack."""
        lines = "".join(f"{agent_id} {log_id} {number}\n" for number in numbers)
        os.write(self._file, lines.encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


@dataclass(slots=True)
class World:
    """Clock, randomness, counters, files and the queue of those who want to connect.

    `random` is for telemetry, events and times. Ids never come from it: two runs with one seed
    would look like a clone, and their events like forgeries.
    """

    random: Random
    settings: CoreSettings
    store: IdentityStore
    work: PackageWork
    trust: TrustStore
    seed: int
    source: str | None = None
    acked_log: AckedLog | None = None
    behaviour: Behaviour = field(default_factory=Behaviour)
    statistics: Statistics = field(default_factory=Statistics)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    waiting: asyncio.Queue[Connecting] = field(default_factory=asyncio.Queue)
    dirty: set[int] = field(default_factory=set)
    memory_kib: float | None = None
    acks: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False
    _endpoints: dict[tuple[str, int, int], Endpoint] = field(default_factory=dict)
    _accepted: dict[tuple[int, bytes], TrustStore] = field(default_factory=dict)

    def moment(self) -> Moment:
        """Read both clocks; the monotonic one is the event loop's."""
        return Moment(datetime.now(UTC), self.loop.time())

    def endpoint(self, home: Home, trust: TrustStore) -> Endpoint:
        """Where an agent connects to; the same object for all that go to the same place."""
        key = (home.mqtt_host, home.mqtt_port, trust.version)
        if key not in self._endpoints:
            self._endpoints[key] = Endpoint(
                home.mqtt_host, home.mqtt_port, "\n".join(trust.bundle.ca), self.source
            )
        return self._endpoints[key]

    def accept(self, current: TrustStore, raw: bytes, now: datetime) -> TrustStore:
        """Believe the next trust bundle; all agents of a version share one object.

        Raises: BundleRefused, EnvelopeRefused, MessageTooLarge.
        """
        key = (current.version, hashlib.sha256(raw).digest())
        if key not in self._accepted:
            self._accepted[key] = accept_next(current, raw, now)
        return self._accepted[key]
