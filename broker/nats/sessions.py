"""Every agent's session on every node, as the servers tell of them. Pure."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from broker.denyset import Revocation
from broker.session import Session

# Ended ones that are remembered: what the log says of a last will comes after the end.
_REMEMBERED: Final = 1000
_K = TypeVar("_K")


class Place(NamedTuple):
    """One connection: its server, and the id that it has there."""

    server_id: str
    cid: int


class Difference(NamedTuple):
    """What a list of a server's sessions has shown to be new, and to be over."""

    appeared: dict[Place, Session]
    vanished: dict[Place, Session]


class Sessions:
    """The map that a kick needs: agent or serial -> places.

    Events and lists overlap: `begin` before a list is asked for, so that what an event tells
    meanwhile counts for more than the list.
    """

    def __init__(self) -> None:
        self._by_place: dict[Place, Session] = {}
        self._by_agent: dict[UUID, set[Place]] = {}
        self._by_serial: dict[str, set[Place]] = {}
        self._ended: OrderedDict[Place, Session] = OrderedDict()
        self._told: set[Place] | None = None

    def __len__(self) -> int:
        return len(self._by_place)

    def add(self, place: Place, session: Session) -> None:
        """Note a session that an event tells of."""
        if self._told is not None:
            self._told.add(place)
        self._put(place, session)

    def remove(self, place: Place) -> Session | None:
        """Forget a session whose end an event tells of; None where it was not known."""
        if self._told is not None:
            self._told.add(place)
        return self._drop(place)

    def find(self, place: Place) -> Session | None:
        """Return a live session, or one that has ended lately."""
        return self._by_place.get(place) or self._ended.get(place)

    def is_live(self, place: Place) -> bool:
        """Tell whether the session has not ended."""
        return place in self._by_place

    def has_agent(self, agent_id: UUID) -> bool:
        """Tell whether the agent has a session anywhere."""
        return agent_id in self._by_agent

    def list_denied(self, revocation: Revocation) -> list[Place]:
        """Return every place that the revocation ends."""
        found: set[Place] = set()
        if revocation.agent_id is not None:
            found |= self._by_agent.get(revocation.agent_id, set())
        if revocation.serial is not None:
            found |= self._by_serial.get(revocation.serial, set())
        return sorted(found)

    def list_all(self) -> dict[Place, Session]:
        """Return all sessions."""
        return dict(self._by_place)

    def list_at(self, server_id: str) -> dict[Place, Session]:
        """Return the sessions of one server."""
        return {at: one for at, one in self._by_place.items() if at.server_id == server_id}

    def list_servers(self) -> set[str]:
        """Return the servers that have sessions."""
        return {place.server_id for place in self._by_place}

    def begin(self) -> None:
        """Watch from now on what events tell, until the last `settle` of this round."""
        self._told = set()

    def settle(self, server_id: str, listed: Mapping[Place, Session]) -> Difference:
        """Take a server's complete list, asked for after `begin`."""
        told = self._told or set()
        known = self.list_at(server_id)
        appeared = {at: one for at, one in listed.items() if at not in known and at not in told}
        vanished = {at: one for at, one in known.items() if at not in listed and at not in told}
        for place, session in appeared.items():
            self._put(place, session)
        for place in vanished:
            self._drop(place)
        return Difference(appeared, vanished)

    def end(self) -> None:
        """Watch no more."""
        self._told = None

    def _put(self, place: Place, session: Session) -> None:
        self._drop(place)
        self._by_place[place] = session
        self._by_agent.setdefault(session.agent.agent_id, set()).add(place)
        self._by_serial.setdefault(session.serial, set()).add(place)

    def _drop(self, place: Place) -> Session | None:
        session = self._by_place.pop(place, None)
        if session is None:
            return None
        _discard(self._by_agent, session.agent.agent_id, place)
        _discard(self._by_serial, session.serial, place)
        self._ended[place] = session
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        return session


def _discard(index: dict[_K, set[Place]], key: _K, place: Place) -> None:
    places = index[key]
    places.discard(place)
    if not places:
        del index[key]
