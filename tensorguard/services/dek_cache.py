"""What key release remembers between requests: opened DEKs for minutes, and who asks in vain."""

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.packages import PURPOSE_DEK
from tensorguard.services.sealed_rows import open_stored
from tensorguard.vault.provider import KeyProvider

MAX_DENIALS_A_MINUTE: Final = 10
_MINUTE: Final = timedelta(minutes=1)


class DekCache:
    """Opened DEKs for a few minutes, so that calls to the KEK grow with packages, not agents."""

    def __init__(
        self,
        kek: KeyProvider,
        *,
        lifetime: timedelta = timedelta(minutes=5),
        max_entries: int = 64,
    ) -> None:
        self._kek = kek
        self._lifetime = lifetime
        self._max_entries = max_entries
        self._deks: OrderedDict[bytes, tuple[bytes, datetime]] = OrderedDict()

    async def get(self, session: AsyncSession, digest: bytes, now: datetime) -> bytes:
        """Return the DEK of the package with this digest. Raises: VaultError."""
        self._forget(now)
        if (known := self._deks.get(digest)) is not None:
            return known[0]
        dek = await open_stored(session, self._kek, purpose=PURPOSE_DEK, owner=digest.hex())
        self._deks[digest] = (dek, now + self._lifetime)
        while len(self._deks) > self._max_entries:
            self._deks.popitem(last=False)
        return dek

    def _forget(self, now: datetime) -> None:
        for digest in [key for key, (_, until) in self._deks.items() if now >= until]:
            del self._deks[digest]


class DenialLimit:
    """How often an agent may be denied in a minute before it gets no answer and no entry.

    Neither the ledger nor the table of answers is an agent's to flood.
    """

    def __init__(self, *, most: int = MAX_DENIALS_A_MINUTE, max_agents: int = 10_000) -> None:
        self._most = most
        self._max_agents = max_agents
        self._counts: OrderedDict[UUID, tuple[int, datetime]] = OrderedDict()

    def allows(self, agent_id: UUID, now: datetime) -> bool:
        """Count a denial, and tell whether it may be answered and written."""
        count, until = self._counts.pop(agent_id, (0, now + _MINUTE))
        if now >= until:
            count, until = 0, now + _MINUTE
        self._counts[agent_id] = (count + 1, until)
        if len(self._counts) > self._max_agents:
            self._counts.popitem(last=False)
        return count < self._most
