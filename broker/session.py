"""One agent's live session as every front knows it, whatever engine holds the socket."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tensorguard.pki.identity import AgentIdentity


class End(StrEnum):
    """Why a connection ended."""

    DISCONNECT = "disconnected"
    LOST = "connection lost"
    IDLE = "keep-alive exceeded"
    MALFORMED = "malformed packet"
    OVERSIZE = "oversize packet"
    FLOODED = "too many denied operations"
    SLOW = "did not read"
    TAKEN_OVER = "taken over by a newer connection"
    REVOKED = "revoked"
    EXPIRED = "certificate expired"
    UNCONFIRMED = "front without database"
    TIME_LIMIT = "connected for too long"
    SHUTDOWN = "front stopped"


@dataclass(frozen=True, slots=True)
class Session:
    """An admitted agent: `serial` is its certificate's in lower-case hex, `address` host:port."""

    agent: AgentIdentity
    serial: str
    address: str
    admitted_at: datetime
