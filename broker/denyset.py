"""Who is denied: revoked agents and superseded certificates, asked at every connect."""

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from tensorguard.pki.identity import AgentIdentity, Peer, serial_text

STALE_AFTER: Final = timedelta(seconds=5)
FORGOTTEN_AFTER: Final = timedelta(days=7)
"""So long after its end TLS refuses a certificate, however much the clocks differ."""
# Linux's monotonic clock stands still while the machine sleeps, and revocations go on.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Revocation:
    """A row of `revocations`: an agent, or one certificate by its serial in lower-case hex.

    `not_after`: the certificate's end; None where it is unknown, and always for an agent.
    """

    seq: int
    agent_id: UUID | None
    serial: str | None
    not_after: datetime | None = None


class DenySet:
    """The revocations that this front has applied.

    `confirm` says that the set is complete as of now; without it the set goes stale after
    `stale_after`, and a stale front admits nobody. `stale_after` None: never stale.
    """

    def __init__(
        self,
        *,
        stale_after: timedelta | None = STALE_AFTER,
        monotonic: Callable[[], float] = lambda: time.clock_gettime(_CLOCK),
    ) -> None:
        self.applied_seq = 0
        self._agents: set[UUID] = set()
        self._serials: set[str] = set()
        self._ends: list[tuple[datetime, str]] = []  # a heap
        self._stale_after = stale_after
        self._monotonic = monotonic
        self._confirmed_at: float | None = None

    def add(self, revocation: Revocation) -> None:
        """Deny from now on; the caller ends the live sessions."""
        if revocation.agent_id is not None:
            self._agents.add(revocation.agent_id)
        if revocation.serial is not None:
            # What could not be applied is added again: it stands in the heap once.
            if revocation.not_after is not None and revocation.serial not in self._serials:
                heapq.heappush(self._ends, (revocation.not_after, revocation.serial))
            self._serials.add(revocation.serial)
        self.applied_seq = max(self.applied_seq, revocation.seq)

    def forget(self, now: datetime) -> None:
        """Deny no longer what TLS refuses anyway: certificates that ended long ago."""
        while self._ends and self._ends[0][0] < now - FORGOTTEN_AFTER:
            self._serials.discard(heapq.heappop(self._ends)[1])

    def confirm(self) -> None:
        """Note that every revocation committed until now has been added."""
        self._confirmed_at = self._monotonic()

    def is_stale(self) -> bool:
        """Tell whether a revocation may have been missed."""
        if self._stale_after is None:
            return False
        if self._confirmed_at is None:
            return True
        return self._monotonic() - self._confirmed_at > self._stale_after.total_seconds()

    @property
    def unconfirmed_s(self) -> float:
        """Seconds in which a revocation may have been missed; 0 where the set never goes stale."""
        if self._stale_after is None or self._confirmed_at is None:
            return 0.0
        return self._monotonic() - self._confirmed_at

    def denies(self, peer: Peer) -> bool:
        """Tell whether the peer's agent is revoked or its certificate superseded."""
        identity = peer.identity
        agent_id = identity.agent_id if isinstance(identity, AgentIdentity) else None
        return self.denies_session(agent_id, serial_text(peer.serial))

    def denies_session(self, agent_id: UUID | None, serial: str) -> bool:
        """Tell the same of a session, by its agent and its certificate's serial in hex."""
        return agent_id in self._agents or serial in self._serials
