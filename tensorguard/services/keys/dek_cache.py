"""What key release remembers between requests: opened DEKs for minutes, and who asks in vain."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from tensorguard.vault.errors import VaultError
from tensorguard.vault.secret_memory import SecretMemory

log = structlog.get_logger(__name__)
MAX_DENIALS_A_MINUTE: Final = 10
DEK_LIFETIME: Final = timedelta(minutes=5)
DEK_BYTES: Final = 32
MAX_DEKS: Final = 256
_MINUTE: Final = timedelta(minutes=1)
# Long enough that a batch of requests is one call, short enough that nobody waits for a key that
# is back.
_REFUSAL_LIFETIME: Final = timedelta(seconds=15)
_ABSENCE_LIFETIME: Final = timedelta(seconds=3)


@dataclass(frozen=True, slots=True)
class DekPlace:
    """A package's DEK as one KEK has it: `kek_id` None is the platform's, else a fleet's own."""

    digest: bytes
    kek_id: UUID | None = None
    fleet: str | None = None


Open = Callable[[DekPlace], Awaitable[bytes]]


class DekCache:
    """Opened DEKs for a few minutes, so that calls to a KEK grow with packages, not agents.

    Errors are remembered too, for seconds. One opening of a DEK at a time.
    """

    def __init__(self, *, lifetime: timedelta = DEK_LIFETIME, max_entries: int = MAX_DEKS) -> None:
        self._lifetime = lifetime
        self._max_entries = max_entries
        self._memory = SecretMemory(max_entries, DEK_BYTES)
        self._slots: OrderedDict[DekPlace, tuple[int, datetime]] = OrderedDict()
        self._errors: OrderedDict[DekPlace, tuple[VaultError, datetime]] = OrderedDict()
        self._opening: dict[DekPlace, asyncio.Task[None]] = {}

    def find(self, place: DekPlace, now: datetime) -> bytes | None:
        """Return a DEK that is known. Raises: VaultError that is known."""
        self._forget(now)
        if place in self._errors:
            raise self._errors[place][0]
        known = self._slots.get(place)
        return None if known is None else self._memory.read(known[0])

    def is_opening(self, place: DekPlace) -> bool:
        """Tell whether an opening is under way."""
        return place in self._opening

    async def get(self, place: DekPlace, open_dek: Open, now: datetime) -> bytes:
        """Return a DEK, opened if it is not known. Raises: VaultError."""
        dek = self.find(place, now)
        if dek is None:
            await self._open(place, open_dek, now)
            dek = self.find(place, now)
            assert dek is not None, "it was opened, or an error is known"
        return dek

    async def prepare(
        self, places: Iterable[DekPlace], open_dek: Open, now: datetime, *, most_s: float
    ) -> None:
        """Open what is not known, all at once, and wait for it for `most_s` seconds.

        What takes longer goes on, and is known later.
        """
        self._forget(now)
        unknown = [
            place
            for place in dict.fromkeys(places)
            if place not in self._slots and place not in self._errors and place not in self._opening
        ]
        for place in unknown[: max(0, self._max_entries - len(self._opening))]:
            task = asyncio.create_task(self._open(place, open_dek, now))
            self._opening[place] = task
            task.add_done_callback(partial(self._opened, place))
        started = [self._opening[place] for place in unknown if place in self._opening]
        if started:
            await asyncio.wait(started, timeout=most_s)

    async def close(self) -> None:
        """Stop what is under way, and wipe everything."""
        tasks = list(self._opening.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._slots:
            self._memory.wipe(self._slots.popitem()[1][0])

    def _opened(self, place: DekPlace, task: asyncio.Task[None]) -> None:
        self._opening.pop(place, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The database was away, perhaps: it is opened again with the next request.
            log.error("dek_not_opened", reason=type(error).__name__)

    async def _open(self, place: DekPlace, open_dek: Open, now: datetime) -> None:
        try:
            dek = await open_dek(place)
        except VaultError as error:
            lifetime = _ABSENCE_LIFETIME if error.retriable else _REFUSAL_LIFETIME
            self._errors[place] = (error, now + lifetime)
            if len(self._errors) > self._max_entries:
                self._errors.popitem(last=False)
            return
        if place in self._slots:
            self._memory.wipe(self._slots.pop(place)[0])
        while len(self._slots) >= self._max_entries:
            self._memory.wipe(self._slots.popitem(last=False)[1][0])
        self._slots[place] = (self._memory.put(dek), now + self._lifetime)

    def _forget(self, now: datetime) -> None:
        # All live equally long, so that the oldest ends first.
        while self._slots and now >= next(iter(self._slots.values()))[1]:
            self._memory.wipe(self._slots.popitem(last=False)[1][0])
        if self._errors:
            for place in [key for key, (_, until) in self._errors.items() if now >= until]:
                del self._errors[place]


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
