"""Topics: who may say what where. The one place with the rules; every broker front renders them."""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from uuid import UUID

from tensorguard.protocol.errors import BadTopic

ROOT = "tg/v1"
ALL = "all"
# An underscore cannot stand in a fleet slug, so no fleet can ever speak for a front.
FRONT = "_front"
# Neither for a device that has no fleet yet: it is named by its manufacturer's certificate.
ENROLL = "_enroll"
FLEET_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
_FLEET = re.compile(FLEET_PATTERN)
_AGENT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FRONT_ID = re.compile(r"[a-z0-9-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class UpKind(StrEnum):
    """What an agent may publish; exactly these kinds, no wildcard."""

    HEARTBEAT = "heartbeat"
    EVENT = "event"
    PROGRESS = "progress"
    KEY_REQUEST = "key-request"
    CSR = "csr"
    REPLY = "reply"
    WILL = "will"


class DownKind(StrEnum):
    """What the platform says to one agent, or to all agents of a fleet."""

    ACK = "ack"
    DESIRED = "desired"
    GRANT = "grant"
    CERTIFICATE = "certificate"
    COMMAND = "command"
    CONFIG = "config"
    CHECKPOINT = "checkpoint"
    TRUST_VERSION = "trust-version"


class FrontKind(StrEnum):
    """What a broker front tells the hub: of its connections, and of devices that ask to join."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    DENIED = "denied"
    ENROLL = "enroll"


@dataclass(frozen=True, slots=True)
class UpTopic:
    """`tg/v1/<fleet>/<agent_id>/up/<kind>`, taken apart."""

    fleet: str
    agent_id: UUID
    kind: UpKind

    def __str__(self) -> str:
        return up(self.fleet, self.agent_id, self.kind)


@dataclass(frozen=True, slots=True)
class FrontTopic:
    """`tg/v1/_front/<front_id>/up/<kind>`, taken apart."""

    front_id: str
    kind: FrontKind

    def __str__(self) -> str:
        return f"{ROOT}/{FRONT}/{self.front_id}/up/{self.kind}"


@lru_cache(maxsize=4096)  # asked for every message, of few fleets; the pattern backtracks
def is_fleet(slug: str) -> bool:
    """Tell whether `slug` is a well-formed fleet slug (at most 40 characters)."""
    return _FLEET.fullmatch(slug) is not None


def up(fleet: str, agent_id: UUID, kind: UpKind) -> str:
    """Return the topic on which this agent publishes `kind`."""
    return f"{ROOT}/{fleet}/{agent_id}/up/{kind}"


def down(fleet: str, agent_id: UUID, kind: DownKind) -> str:
    """Return the topic on which this agent, and only it, receives `kind`."""
    return f"{ROOT}/{fleet}/{agent_id}/down/{kind}"


def fleet_down(fleet: str, kind: DownKind) -> str:
    """Return the topic on which every agent of the fleet receives `kind`."""
    return f"{ROOT}/{fleet}/{ALL}/down/{kind}"


def publishable(fleet: str, agent_id: UUID) -> frozenset[str]:
    """Return every topic that this agent may publish to; there is no other."""
    return frozenset(up(fleet, agent_id, kind) for kind in UpKind)


def subscribable(fleet: str, agent_id: UUID) -> tuple[str, str]:
    """Return the two topic filters that this agent may subscribe to, spelt exactly so."""
    return (f"{ROOT}/{fleet}/{agent_id}/down/#", f"{ROOT}/{fleet}/{ALL}/down/#")


def will_topic(fleet: str, agent_id: UUID) -> str:
    """Return the only topic that this agent's last will may name."""
    return up(fleet, agent_id, UpKind.WILL)


def device_up(certificate_sha256: str) -> str:
    """Return the only topic on which a device without an identity publishes: its request."""
    return f"{ROOT}/{ENROLL}/{certificate_sha256}/up/enroll"


def device_down(certificate_sha256: str) -> str:
    """Return the only topic, and topic filter, on which such a device receives: its answer."""
    return f"{ROOT}/{ENROLL}/{certificate_sha256}/down/enrolled"


# What the hub subscribes to: everything that agents and fronts say.
HUB_FILTERS = (f"{ROOT}/+/+/up/+",)


def is_down(topic: str) -> bool:
    """Tell whether the hub may publish to `topic`: an agent's, a fleet's or a device's."""
    parts = topic.split("/")
    if len(parts) != 6 or "/".join(parts[:2]) != ROOT or parts[4] != "down":
        return False
    if parts[2] == ENROLL:
        return _SHA256.fullmatch(parts[3]) is not None and parts[5] == "enrolled"
    if not is_fleet(parts[2]) or parts[5] not in set(DownKind):
        return False
    return parts[3] == ALL or _is_agent_id(parts[3])


def parse_up(topic: str) -> UpTopic | FrontTopic:
    """Take an up topic apart.

    Raises: BadTopic for anything that no agent and no front may publish to.
    """
    parts = topic.split("/")
    if len(parts) != 6 or parts[0] != "tg" or parts[1] != "v1" or parts[4] != "up":
        raise BadTopic(f"not an up topic: {topic[:200]!r}")
    _, _, fleet, speaker, _, kind = parts
    try:
        if fleet == FRONT:
            if not _FRONT_ID.fullmatch(speaker):
                raise BadTopic(f"not a front id: {speaker[:80]!r}")
            return FrontTopic(speaker, FrontKind(kind))
        if not is_fleet(fleet) or not _is_agent_id(speaker):
            raise BadTopic(f"not an agent's topic: {topic[:200]!r}")
        agent_id = UUID(
            int=int(speaker.replace("-", ""), 16)
        )  # four times as fast as UUID(speaker)
        return UpTopic(fleet, agent_id, UpKind(kind))
    except ValueError:
        raise BadTopic(f"no such kind: {kind[:80]!r}") from None


def _is_agent_id(text: str) -> bool:
    # Only the canonical spelling: two spellings of one id would be two topics.
    return _AGENT_ID.fullmatch(text) is not None
