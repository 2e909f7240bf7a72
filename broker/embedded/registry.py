"""All live connections, by client id: a kick reaches every one of them, not only the newest."""

from collections.abc import Iterator

from broker.denyset import Revocation
from broker.embedded.connection import Connection
from broker.session import Session
from tensorguard.pki.identity import serial_text


class Registry:
    """Live connections of one front."""

    def __init__(self) -> None:
        self._by_client: dict[str, list[Connection]] = {}
        self.agents = 0
        self.hubs = 0

    def add(self, connection: Connection) -> list[Connection]:
        """Register; return the older connections of the same client id."""
        same = self._by_client.setdefault(connection.client_id, [])
        older = list(same)
        same.append(connection)
        self._count(connection, 1)
        return older

    def remove(self, connection: Connection) -> bool:
        """Forget; True where this was the last connection of its client id."""
        same = self._by_client.get(connection.client_id, [])
        if connection not in same:
            return False
        same.remove(connection)
        self._count(connection, -1)
        if same:
            return False
        del self._by_client[connection.client_id]
        return True

    def has_client(self, client_id: str) -> bool:
        """Tell whether a connection of this client id is live."""
        return client_id in self._by_client

    def list_all(self) -> list[Connection]:
        """Return every live connection."""
        return [connection for same in self._by_client.values() for connection in same]

    def list_sessions(self) -> list[Session]:
        """Return the session of every agent that is connected."""
        sessions = (connection.session for connection in self.list_all())
        return [session for session in sessions if session is not None]

    def list_denied(self, revocation: Revocation) -> list[Connection]:
        """Return every live connection that the revocation ends."""
        return list(self._denied(revocation))

    def _denied(self, revocation: Revocation) -> Iterator[Connection]:
        if revocation.agent_id is not None:
            yield from self._by_client.get(str(revocation.agent_id), [])
        if revocation.serial is not None:
            # Superseded certificates are rare (one a renewal): a scan is cheaper than an index.
            for connection in self.list_all():
                if serial_text(connection.peer.serial) == revocation.serial:
                    yield connection

    def _count(self, connection: Connection, change: int) -> None:
        if connection.is_hub:
            self.hubs += change
        else:
            self.agents += change
