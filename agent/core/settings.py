"""What a core is built with: common settings, who the agent is, and what it measures."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tensorguard.pki.identity import AgentIdentity
from tensorguard.protocol.messages import Accelerator


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What is the same for many agents of a process.

    The hub takes 60 events a minute with a burst of 1,000 for normal; an agent stays below that.
    `heartbeat_interval_s` stands above the fleet's configuration: for simulations.
    """

    agent_version: str
    build_time: datetime
    events_per_minute: float = 54.0
    event_burst: int = 500
    heartbeat_interval_s: float | None = None


@dataclass(frozen=True, slots=True)
class Certified:
    """Whom a certificate names, from when to when, and by whom.

    `issuer` is the key id of the CA; None leaves it where it is, until its own time comes.
    """

    identity: AgentIdentity
    not_before: datetime
    not_after: datetime
    issuer: bytes | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the agent is: identity, validity of its certificate, and the kid of its X25519 key.

    `next` is a newer certificate that has not connected yet; `issuer` as in Certified.
    """

    identity: AgentIdentity
    not_before: datetime
    not_after: datetime
    encryption_kid: str
    next: Certified | None = None
    issuer: bytes | None = None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """One measurement of the device."""

    cpu_percent: float
    memory_percent: float
    disk_percent: float
    temperature_c: float | None = None
    accelerators: Sequence[Accelerator] = ()
    metrics: dict[str, float] | None = None
