"""What goes down after a commit: decided while a batch is stored, published only once it is."""

from dataclasses import dataclass, field
from uuid import UUID

from tensorguard.protocol import codec, topics
from tensorguard.protocol.messages import Message
from tensorguard.protocol.topics import DownKind


@dataclass(frozen=True, slots=True)
class Downlink:
    """One message to one topic."""

    topic: str
    payload: bytes


@dataclass(slots=True)
class Downlinks:
    """What a unit of work wants to send; what gets lost is repaired at the next heartbeat."""

    items: list[Downlink] = field(default_factory=list)

    def to_agent(
        self, fleet: str, agent_id: UUID, kind: DownKind, message: Message | bytes
    ) -> None:
        """Queue a message, or an envelope that is already encoded, for one agent."""
        payload = message if isinstance(message, bytes) else codec.encode(message)
        self.items.append(Downlink(topics.down(fleet, agent_id, kind), payload))

    def to_device(self, certificate_sha256: str, message: Message) -> None:
        """Queue an answer for a device that asks to join."""
        topic = topics.device_down(certificate_sha256)
        self.items.append(Downlink(topic, codec.encode(message)))

    def to_fleet(self, fleet: str, kind: DownKind, message: Message | bytes) -> None:
        """Queue a message for every agent of a fleet."""
        payload = message if isinstance(message, bytes) else codec.encode(message)
        self.items.append(Downlink(topics.fleet_down(fleet, kind), payload))
