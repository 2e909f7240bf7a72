"""What a broker front is, whatever engine carries the messages.

Two engines: `embedded` (amqtt in this process) and `nats` (a NATS server beside it). Both answer to
the same rights (rights.py), deny set (denyset.py), lease (lease.py) and reports (reports.py);
broker/main.py is the only place that chooses.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from broker.denyset import Revocation


class BrokerFront(Protocol):
    """Admits agents, keeps them to their topics, and ends their sessions."""

    @property
    def address(self) -> tuple[str, int]:
        """Where agents connect."""
        ...

    async def start(self) -> None:
        """Admit agents from now on. Raises: FrontError."""
        ...

    async def shutdown(self) -> None:
        """Admit nobody any more; calling it again does nothing."""
        ...

    async def apply(self, revocations: Sequence[Revocation]) -> list[int]:
        """Deny from now on, and end every live session concerned.

        Returns how many sessions each revocation has ended. Whatever happens they are denied; a
        front that cannot reach its sessions gets no receipt. Raises: FrontError.
        """
        ...


class UpMessage(NamedTuple):
    """A message on its way to a hub, at the QoS it was published with."""

    topic: str
    payload: bytes
    qos: int


class Upward(Protocol):
    """The way from a front to the hubs."""

    @property
    def has_hub(self) -> bool:
        """Tell whether what is offered now has somewhere to go."""
        ...

    def offer_up(self, speaker: str, message: UpMessage) -> bool:
        """Take a message without waiting; False where there is no room or no way.

        Messages of one speaker stay in order.
        """
        ...
