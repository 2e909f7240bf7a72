"""After a first connect with a new certificate: the older ones are denied, a move is complete.

The batch that hears of the connect only dates it. The rest is small transactions of their own: a
revocation makes all others wait until it commits, and a batch is too long for that. What a crash
leaves undone stands in the database, and is found at the next start and each half minute.
"""

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import sqlalchemy as sa
import structlog

from tensorguard.services.certificates.superseding import find_unsettled, settle
from tensorguard.services.errors import ServiceError
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import SessionMaker

log = structlog.get_logger()
LOOK_EVERY = timedelta(seconds=30)
AT_ONCE = 500


class NewConnections:
    """Agents that have just connected with a certificate for the first time."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self._agents: set[UUID] = set()
        self._more = True

    def add(self, agents: Collection[UUID]) -> None:
        """Take agents in; what is too much to remember is looked for in the database."""
        if not agents:
            return
        if len(self._agents) + len(agents) > AT_ONCE:
            self._more = True
        else:
            self._agents.update(agents)
        self.woken.set()

    def look_everywhere(self) -> None:
        """Have the next round look at all agents."""
        self._more = True

    def take(self) -> set[UUID] | None:
        """Return whom to look at; None: everybody."""
        self.woken.clear()
        taken, more = self._agents, self._more
        self._agents, self._more = set(), False
        return None if more else taken


class Settler:
    """Supersedes certificates and completes moves, one agent a transaction."""

    def __init__(
        self,
        sessions: SessionMaker,
        keyring: Keyring,
        connections: NewConnections,
        clock: Callable[[], datetime],
    ) -> None:
        self._sessions = sessions
        self._keyring = keyring
        self._connections = connections
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Settle what is due until `stop`; what fails is tried again half a minute later."""
        while not stop.is_set():
            try:
                await self.step()
            except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
                log.error("connections_not_settled", reason=str(getattr(error, "orig", error)))
            if not await self._sleep(stop):
                self._connections.look_everywhere()

    async def step(self) -> int:
        """Settle whoever is due; return how many agents."""
        wanted, settled = self._connections.take(), 0
        if wanted is not None and not wanted:
            return 0
        try:
            while True:
                async with self._sessions() as session:
                    due = await find_unsettled(session, wanted, limit=AT_ONCE)
                done = [await self._settle(agent_id) for agent_id in due]
                settled += sum(done)
                if len(due) < AT_ONCE or not all(done):
                    return settled
        except BaseException:
            self._connections.look_everywhere()
            raise

    async def _settle(self, agent_id: UUID) -> bool:
        """Settle one agent; one agent's trouble must not stop the others."""
        try:
            async with self._sessions() as session, session.begin():
                done = await settle(session, self._keyring, agent_id, now=self._clock())
        except ServiceError as error:
            log.error("agent_not_settled", agent_id=str(agent_id), reason=error.message)
            return False
        log.info(
            "certificates_superseded",
            agent_id=str(agent_id),
            serials=len(done.serials),
            moved_to=done.moved_to,
        )
        return True

    async def _sleep(self, stop: asyncio.Event) -> bool:
        """Wait for news or the end; False where neither came in time."""
        waits = [
            asyncio.ensure_future(stop.wait()),
            asyncio.ensure_future(self._connections.woken.wait()),
        ]
        try:
            done, _ = await asyncio.wait(
                waits,
                timeout=LOOK_EVERY.total_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for wait in waits:
                wait.cancel()
        return bool(done)
