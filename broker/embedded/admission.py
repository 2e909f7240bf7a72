"""What a CONNECT asks for, compared with what its identity may have. Pure decisions."""

from dataclasses import dataclass
from typing import Final

from broker.embedded.limits import Limits
from broker.embedded.packets import Connect
from broker.errors import ConnectRefused
from broker.rights import IDENTIFIER_REJECTED, NOT_AUTHORIZED, UNACCEPTABLE_PROTOCOL, Rights
from tensorguard.pki.identity import DeviceIdentity, Holder, Peer, ServiceIdentity

_PROTOCOL: Final = ("MQTT", 4)


@dataclass(frozen=True, slots=True)
class Will:
    """The message that stands in for a peer that went without a word."""

    topic: str
    payload: bytes
    qos: int


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
