"""What an identity may do at a broker of any engine: the protocol's topic rules, rendered."""

from dataclasses import dataclass
from typing import Final

from broker.denyset import DenySet
from broker.errors import ConnectRefused
from tensorguard.pki.identity import AgentIdentity, DeviceIdentity, Holder, Peer
from tensorguard.protocol import topics

# CONNACK return codes, MQTT 3.1.1 table 3.1.
UNACCEPTABLE_PROTOCOL: Final = 1
IDENTIFIER_REJECTED: Final = 2
SERVER_UNAVAILABLE: Final = 3
NOT_AUTHORIZED: Final = 5

_HUB: Final = "hub"


@dataclass(frozen=True, slots=True)
class Rights:
    """What one identity may do; `publish` None means: the platform's down topics."""

    publish: frozenset[str] | None
    subscribe: frozenset[str]
    will_topic: str | None

    @property
    def is_hub(self) -> bool:
        """Tell whether these are the rights of a hub."""
        return self.publish is None

    def may_publish(self, topic: str) -> bool:
        """Tell whether a message to `topic` goes on."""
        return topics.is_down(topic) if self.publish is None else topic in self.publish


def rights_of(identity: Holder) -> Rights:
    """Render the protocol's topic rules for one identity.

    Raises: ConnectRefused for services that have no business at a broker.
    """
    if isinstance(identity, AgentIdentity):
        fleet, agent_id = identity.fleet, identity.agent_id
        return Rights(
            publish=topics.publishable(fleet, agent_id),
            subscribe=frozenset(topics.subscribable(fleet, agent_id)),
            will_topic=topics.will_topic(fleet, agent_id),
        )
    if isinstance(identity, DeviceIdentity):
        device = identity.certificate_sha256
        return Rights(
            publish=frozenset({topics.device_up(device)}),
            subscribe=frozenset({topics.device_down(device)}),
            will_topic=None,
        )
    if identity.name == _HUB:
        return Rights(publish=None, subscribe=frozenset(topics.HUB_FILTERS), will_topic=None)
    raise ConnectRefused("not-a-hub", return_code=NOT_AUTHORIZED)


def check_standing(peer: Peer, denied: DenySet) -> None:
    """Refuse who is revoked, and everybody while a revocation may have been missed.

    Raises: ConnectRefused.
    """
    if denied.denies(peer):
        raise ConnectRefused("revoked", return_code=NOT_AUTHORIZED)
    if denied.is_stale():
        raise ConnectRefused("front-is-stale", return_code=SERVER_UNAVAILABLE)
