"""What servers tell of connections, read: events of the agents' account, and lists of CONNZ."""

from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from broker.nats.configuration import AGENTS
from broker.nats.errors import BadEvent
from broker.nats.permissions import UserName
from broker.nats.sessions import Place
from broker.session import End, Session

EVENTS: Final = f"$SYS.ACCOUNT.{AGENTS}.*"
_MQTT: Final = "mqtt"
# server/monitor.go, ClosedState.String(); what is not here is a lost connection.
_ENDS: Final = {
    "Client Closed": End.DISCONNECT,
    "Stale Connection": End.IDLE,
    "Parse Error": End.MALFORMED,
    "Protocol Violation": End.MALFORMED,
    "Maximum Message Payload Exceeded": End.OVERSIZE,
    "Slow Consumer (Pending Bytes)": End.SLOW,
    "Slow Consumer (Write Deadline)": End.SLOW,
    "Duplicate Client ID": End.TAKEN_OVER,
    "Authentication Expired": End.EXPIRED,
    "Server Shutdown": End.SHUTDOWN,
    "Kicked": End.REVOKED,
}


class _Server(msgspec.Struct):
    id: str


class _Client(msgspec.Struct):
    id: int
    start: datetime
    host: str = ""
    user: str = ""
    client_type: str = ""


class _Event(msgspec.Struct):
    server: _Server
    client: _Client
    reason: str = ""


class _Connection(msgspec.Struct):
    cid: int
    start: datetime
    ip: str = ""
    port: int = 0
    authorized_user: str = ""


class _Page(msgspec.Struct):
    total: int
    connections: list[_Connection] = []


class _Listed(msgspec.Struct):
    server: _Server
    data: _Page | None = None


class Told(NamedTuple):
    """An event: `session` began there, or None where what was there has ended."""

    place: Place
    session: Session | None
    end: End


class Page(NamedTuple):
    """A part of a server's list: of `total`, sorted by connection id."""

    server_id: str
    total: int
    sessions: dict[Place, Session]
    cids: list[int]


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_listed = msgspec.json.Decoder(_Listed).decode


def read_event(subject: str, body: bytes, trust_domain: str) -> Told | None:
    """Read a CONNECT or DISCONNECT; None for other events and other clients. Raises: BadEvent."""
    kind = subject.rpartition(".")[2]
    if kind not in ("CONNECT", "DISCONNECT"):
        return None
    try:
        event = _decode_event(body)
    except msgspec.DecodeError as error:
        raise BadEvent(f"not an event of a server: {error}") from None
    client = event.client
    if client.client_type != _MQTT:
        return None
    place = Place(event.server.id, client.id)
    if kind == "DISCONNECT":
        return Told(place, None, _ENDS.get(event.reason, End.LOST))
    session = UserName(trust_domain, client.user).session(client.host, client.start)
    return Told(place, session, End.LOST)


def page_request(offset: int, limit: int) -> bytes:
    """The options of CONNZ for the agents' connections (server/monitor.go, ConnzEventOptions)."""
    return msgspec.json.encode(
        {"auth": True, "acc": AGENTS, "sort": "cid", "offset": offset, "limit": limit}
    )


def read_page(body: bytes, trust_domain: str) -> Page:
    """Read an answer of CONNZ; who is no agent is left out. Raises: BadEvent."""
    try:
        listed = _decode_listed(body)
    except msgspec.DecodeError as error:
        raise BadEvent(f"not a server's list of connections: {error}") from None
    data = listed.data or _Page(0)
    sessions = {}
    for one in data.connections:
        if one.authorized_user:
            address = f"{one.ip}:{one.port}"
            session = UserName(trust_domain, one.authorized_user).session(address, one.start)
            sessions[Place(listed.server.id, one.cid)] = session
    return Page(listed.server.id, data.total, sessions, [one.cid for one in data.connections])
