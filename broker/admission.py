"""Admission: who a CONNECT comes from, and what that identity may do. Pure decisions."""

from dataclasses import dataclass
from typing import Final

from broker.denyset import DenySet
from broker.errors import ConnectRefused
from broker.limits import Limits
from broker.packets import Connect
from tensorguard.pki.identity import (
    AgentIdentity,
    DeviceIdentity,
    Holder,
    Peer,
    ServiceIdentity,
)
from tensorguard.protocol import topics

# CONNACK return codes, MQTT 3.1.1 table 3.1.
UNACCEPTABLE_PROTOCOL: Final = 1
IDENTIFIER_REJECTED: Final = 2
SERVER_UNAVAILABLE: Final = 3
NOT_AUTHORIZED: Final = 5

_HUB: Final = "hub"
_PROTOCOL: Final = ("MQTT", 4)


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


@dataclass(frozen=True, slots=True)
class Will:
    """The message that stands in for a peer that went without a word."""

    topic: str
    payload: bytes
    qos: int


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


def check_connect(connect: Connect, peer: Peer, rights: Rights, limits: Limits) -> Will | None:
    """Compare what a CONNECT asks for with what its identity may have; return the will.

    Raises: ConnectRefused.
    """
    if connect.protocol != _PROTOCOL:
        raise ConnectRefused("not-mqtt-3.1.1", return_code=UNACCEPTABLE_PROTOCOL)
    if not _is_own_client_id(connect.client_id, peer.identity):
        raise ConnectRefused("foreign-client-id", return_code=IDENTIFIER_REJECTED)
    if not connect.clean_session:
        # Nothing is kept for the absent: the platform repairs what a heartbeat shows to be missing.
        raise ConnectRefused("persistent-session", return_code=NOT_AUTHORIZED)
    if connect.will_topic is None:
        return None
    if connect.will_topic != rights.will_topic:
        raise ConnectRefused("foreign-will", return_code=NOT_AUTHORIZED, operation="will")
    if connect.will_qos > 1 or connect.will_retain or len(connect.will_payload) > limits.will_bytes:
        raise ConnectRefused("bad-will", return_code=NOT_AUTHORIZED, operation="will")
    return Will(connect.will_topic, connect.will_payload, connect.will_qos)


def _is_own_client_id(client_id: str, identity: Holder) -> bool:
    if isinstance(identity, DeviceIdentity):
        return client_id == identity.certificate_sha256
    if isinstance(identity, ServiceIdentity):
        # Several hubs may run at once: each has a name of its own after the service's.
        return client_id == identity.name or client_id.startswith(f"{identity.name}-")
    return client_id == identity.common_name
