"""What devices say they have seen of the ledger, gathered until it is held against the ledger."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from hub.batch import From
from tensorguard.protocol.messages import Heartbeat
from tensorguard.services.evidence.witnesses import Seen

MOST_WAITING: Final = 1_000
MOST_KNOWN: Final = 10_000


class Echoes:
    """Checkpoints out of heartbeats, each once; bounded, however many are made up."""

    def __init__(self) -> None:
        self._known: dict[Seen, None] = {}
        self._waiting: dict[Seen, tuple[UUID, str]] = {}

    def add(self, heartbeats: Sequence[From[Heartbeat]]) -> None:
        """Take what is news; beyond the limit it comes again with the next heartbeat."""
        for one in heartbeats:
            ledger = one.message.ledger
            if ledger is None:
                continue
            seen = Seen(ledger.epoch, ledger.size, bytes.fromhex(ledger.root))
            if seen not in self._known and len(self._waiting) < MOST_WAITING:
                self._waiting.setdefault(seen, (one.agent_id, one.fleet))

    @property
    def waiting(self) -> list[tuple[Seen, UUID, str]]:
        """What is to be checked, with the agent and the fleet that said so first."""
        return [(seen, agent_id, fleet) for seen, (agent_id, fleet) in self._waiting.items()]

    def settle(self, seen: Seen) -> None:
        """It has been checked, and told if it was wrong."""
        self._waiting.pop(seen, None)
        self._known[seen] = None
        while len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def forget(self) -> None:
        """Begin anew: what was checked in another epoch is to be checked again."""
        self._known.clear()
